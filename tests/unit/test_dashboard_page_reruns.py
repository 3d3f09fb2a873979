"""Reruns of open pages when the health changes: one rerun per change, and none during a run."""

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.runtime.state import SessionState

from dashboard import runtime
from dashboard.server.page_reruns import PageReruns


class PageSession:
    """A stand-in for a Streamlit session, with the attributes that `PageReruns` uses."""

    def __init__(self, name: str, *, page_script_hash: str = "overview") -> None:
        self.id = name
        self.page_script_hash = page_script_hash
        self._scriptrunner: object | None = None
        self._client_state = ClientState(query_string=f"player={name}")
        self.session_state = SessionState()
        self._browser_queue = ForwardMsgQueue()
        self.runs: list[str] = []

    def request_rerun(self, state: ClientState) -> None:
        """Record the query string of the requested rerun."""
        self.runs.append(state.query_string)

    def begin(self) -> None:
        """Begin a run of the page's script."""
        self._scriptrunner = object()

    def enqueue(self) -> None:
        """Add a message that is not yet sent to the browser."""
        self._browser_queue.enqueue(ForwardMsg(script_finished=ForwardMsg.FINISHED_SUCCESSFULLY))

    def flush(self) -> None:
        """Send the waiting messages to the browser."""
        self._browser_queue.flush()

    def end(self) -> None:
        """End the run of the page's script."""
        self._scriptrunner = None


def build_reruns(*pages: PageSession) -> PageReruns:
    """Return the `PageReruns` of these sessions."""
    return PageReruns(lambda: pages)  # type: ignore[arg-type,return-value]  # stand-ins for sessions


def test_a_change_runs_every_page_once() -> None:
    """A changed state reruns every page once, with its own filters; an equal state reruns none."""
    alice, bob = PageSession("alice"), PageSession("bob")
    pages, before = build_reruns(alice, bob), runtime.get_updates()
    for state in ("healthy", "healthy", "no database", "no database", "no database"):
        pages.update(state)
    assert (alice.runs, bob.runs) == (["player=alice"], ["player=bob"])
    assert runtime.get_updates() == before + 1
    pages.update("healthy")
    assert alice.runs == ["player=alice"] * 2


def test_a_running_page_is_rerun_after_its_run() -> None:
    """A page that is running is rerun when its run has ended; other pages are rerun at once."""
    alice, bob = PageSession("alice"), PageSession("bob")
    pages = build_reruns(alice, bob)
    alice.begin()
    for state in ("healthy", "no database", "no database"):
        pages.update(state)
    assert (alice.runs, bob.runs) == ([], ["player=bob"])
    alice.end()
    pages.update("no database")
    pages.update("no database")
    assert (alice.runs, bob.runs) == (["player=alice"], ["player=bob"])


def test_a_page_that_never_ran_is_not_rerun() -> None:
    """A session without a known page is not rerun, because Streamlit would then show the first page."""
    opened = PageSession("charlie", page_script_hash="")
    pages = build_reruns(opened)
    for state in ("healthy", "no database"):
        pages.update(state)
    assert opened.runs == []


def test_a_page_is_rerun_after_its_messages_are_sent() -> None:
    """A page is rerun only when its messages are sent, because a new run drops unsent messages."""
    alice = PageSession("alice")
    pages = build_reruns(alice)
    pages.update("healthy")
    alice.enqueue()
    pages.update("no database")
    assert alice.runs == []
    alice.flush()
    pages.update("no database")
    assert alice.runs == ["player=alice"]
