import platform
import time
from concurrent.futures import ThreadPoolExecutor

from measurement import COUNT, WARM_UP, report


def inc(x):
    return x + 1


with ThreadPoolExecutor(8) as pool:
    sum(pool.map(inc, range(WARM_UP)))
    started = time.perf_counter()
    futures = [pool.submit(inc, n) for n in range(COUNT)]
    total = sum(future.result() for future in futures)
    seconds = time.perf_counter() - started
report(platform.python_version(), seconds, total)
