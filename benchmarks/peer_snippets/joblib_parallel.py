"""The other arguments are the backend and its number of jobs."""

import sys
import time

import joblib
from joblib import Parallel, delayed
from measurement import COUNT, WARM_UP, report


def inc(x):
    return x + 1


if __name__ == "__main__":
    with Parallel(n_jobs=int(sys.argv[3]), backend=sys.argv[2]) as parallel:
        parallel(delayed(inc)(n) for n in range(WARM_UP))
        started = time.perf_counter()
        total = sum(parallel(delayed(inc)(n) for n in range(COUNT)))
        seconds = time.perf_counter() - started
    report(joblib.__version__, seconds, total)
