"""Open pages run again when the health changes, once each, and not in the middle of a run."""

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.runtime.state import SessionState

from dashboard import runtime
from dashboard.server.page_reruns import PageReruns


class Page:
    """A session of Streamlit, as far as updates know it."""

    def __init__(self, name: str, *, page_script_hash: str = "overview") -> None:
        self.id = name
        self.page_script_hash = page_script_hash
        self._scriptrunner: object | None = None
        self._client_state = ClientState(query_string=f"player={name}")
        self.session_state = SessionState()
        self._browser_queue = ForwardMsgQueue()
        self.runs: list[str] = []

    def request_rerun(self, state: ClientState) -> None:
        """Note with which filters the page runs."""
        self.runs.append(state.query_string)

    def begin(self) -> None:
        """Begin a run for the visitor."""
        self._scriptrunner = object()

    def enqueue(self) -> None:
        """Add a message of the run that the browser has not got yet."""
        self._browser_queue.enqueue(ForwardMsg(script_finished=ForwardMsg.FINISHED_SUCCESSFULLY))

    def flush(self) -> None:
        """Send the messages to the browser."""
        self._browser_queue.flush()

    def end(self) -> None:
        """End it."""
        self._scriptrunner = None


def open_pages(*pages: Page) -> PageReruns:
    """Return the updates of these pages."""
    return PageReruns(lambda: pages)  # type: ignore[arg-type,return-value]  # sessions with less in them


def test_a_change_runs_every_page_once() -> None:
    """The page runs with the filters of its last run; the first state, and an equal state, is no change."""
    alice, bob = Page("alice"), Page("bob")
    pages, before = open_pages(alice, bob), runtime.get_updates()
    for state in ("healthy", "healthy", "no database", "no database", "no database"):
        pages.update(state)
    assert (alice.runs, bob.runs) == (["player=alice"], ["player=bob"])
    assert runtime.get_updates() == before + 1
    pages.update("healthy")
    assert alice.runs == ["player=alice"] * 2


def test_a_page_that_runs_gets_its_turn_afterwards() -> None:
    """Other pages do not wait for it, and do not run twice."""
    alice, bob = Page("alice"), Page("bob")
    pages = open_pages(alice, bob)
    alice.begin()
    for state in ("healthy", "no database", "no database"):
        pages.update(state)
    assert (alice.runs, bob.runs) == ([], ["player=bob"])
    alice.end()
    pages.update("no database")
    pages.update("no database")
    assert (alice.runs, bob.runs) == (["player=alice"], ["player=bob"])


def test_a_page_that_never_ran_is_left_alone() -> None:
    """Its page is not known yet, so a run would show the first page of the menu."""
    opened = Page("charlie", page_script_hash="")
    pages = open_pages(opened)
    for state in ("healthy", "no database"):
        pages.update(state)
    assert opened.runs == []


def test_a_page_runs_again_after_its_messages_are_sent() -> None:
    """A new run drops what is not sent, such as the value that a filter has from the address."""
    alice = Page("alice")
    pages = open_pages(alice)
    pages.update("healthy")
    alice.enqueue()
    pages.update("no database")
    assert alice.runs == []
    alice.flush()
    pages.update("no database")
    assert alice.runs == ["player=alice"]
