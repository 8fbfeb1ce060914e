"""Which requests are for a device without edgebench, and what does them there."""

from collections.abc import Callable, Sequence

from edgebench.core.errors import UsageError
from edgebench.results.store import Store
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_native import execute_native
from edgebench.session_native_place import place_here
from edgebench.session_native_program import NATIVE_RUNNERS, native_runner
from edgebench.session_phone import execute_phone, is_phone
from edgebench.session_plan import Request

Work = Callable[[Store, Watcher], Outcome]


def bare_worker(requests: Sequence[Request]) -> Work | None:
    """What does these requests with native programs; None when this computer's engines are asked for."""
    phones = {request.device for request in requests if is_phone(request.device)}
    native = [request for request in requests if request.runner in NATIVE_RUNNERS]
    if not phones and not native:
        return None
    if len({(request.device, native_runner(request)) for request in requests}) > 1:
        raise UsageError("these runs are of several devices or engines", "one device and engine at a time")
    if phones:
        return lambda store, watcher: execute_phone(requests, store, watcher)
    return lambda store, watcher: _here(requests, store, watcher)


def _here(requests: Sequence[Request], store: Store, watcher: Watcher) -> Outcome:
    with place_here(requests[0], store.path, watcher) as place:
        return execute_native(requests, place, store, watcher)
