"""stable-ssl report --serve: the page over the files as they are now."""

import threading
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from stable_ssl.schema import ConfigError
from stable_ssl.tools.serve import Handler, serve


@pytest.fixture
def served(tmp_path):
    """Return the address of a server of tmp_path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, [tmp_path]))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_every_answer_is_of_the_files_as_they_are(served, make_run):
    with pytest.raises(HTTPError) as refused:
        urlopen(served)
    assert refused.value.code == 503 and b"give run folders" in refused.value.read()
    make_run("a", lr=0.1)
    assert "<title>1 run, stable-SSL" in urlopen(served).read().decode()
    make_run("b", lr=0.3)
    answer = urlopen(served)
    assert answer.headers["Refresh"] == "10"
    text = answer.read().decode()
    assert "<title>2 runs, stable-SSL" in text and '"label":"optim.lr=0.3"' in text
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{served}etc/passwd")
    assert refused.value.code == 404


def test_a_port_that_is_taken_is_refused(served):
    port = int(served.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ConfigError, match="give another port"):
        serve(["."], port)
