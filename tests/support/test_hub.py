"""A hub that does not answer is told of within seconds."""

import socket
import time

import pytest
from huggingface_hub import constants

import adjointdpm
from adjointdpm import errors, metrics
from adjointdpm.support.hub import is_reachable


@pytest.fixture
def silent_hub(monkeypatch):
    """A server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("adjointdpm.support.hub._PATIENCE", 0.5)
        yield


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_is_unreachable() -> None:
    began = time.perf_counter()
    assert not is_reachable()
    assert time.perf_counter() - began < 3


def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr("adjointdpm.support.hub._PATIENCE", 0.2)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: time.sleep(30))
    began = time.perf_counter()
    assert not is_reachable()
    assert time.perf_counter() - began < 5


@pytest.mark.usefixtures("silent_hub")
def test_models_and_metrics_of_an_unreachable_hub_say_so() -> None:
    began = time.perf_counter()
    with pytest.raises(errors.ModelError, match="the hub cannot be reached"):
        adjointdpm.load("somebody/model")
    with pytest.raises(errors.ModelError, match=r"somebody/clip"):
        metrics.resolve("similarity:text=an owl,model=somebody/clip")
    assert time.perf_counter() - began < 10
