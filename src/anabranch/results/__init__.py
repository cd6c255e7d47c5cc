"""Results: how the values of tasks are kept, signed, shown, and had back."""

from anabranch.results.kept import Kept as Kept
from anabranch.results.kept import keep_inline as keep_inline
from anabranch.results.kept import recover as recover
from anabranch.results.persistence import Persistence as Persistence
from anabranch.results.persistence import keep_persistent as keep_persistent
from anabranch.results.previews import preview as preview
from anabranch.results.result_store import ResultRecord as ResultRecord
from anabranch.results.result_store import ResultRecordMetadata as ResultRecordMetadata
from anabranch.results.result_store import ResultStore as ResultStore
from anabranch.results.signing import load_secret as load_secret
from anabranch.results.signing import sign as sign
from anabranch.results.signing import verify as verify
from anabranch.results.storage import FsspecStorage as FsspecStorage
from anabranch.results.storage import LocalStorage as LocalStorage
from anabranch.results.storage import Storage as Storage
from anabranch.results.storage import storage as storage
