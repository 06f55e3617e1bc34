"""The client in real programs: it records what they say, and whatever happens, they do not notice it.

The listener of `tests.support` stands in the place of the node daemon.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import Listener, Said, eventually, run_script, start_script

NOBODY = "/tmp/yprov-nobody-is-here.sock"


def complete(said: Said) -> Said:
    """Everything that the process logged arrived, and it said goodbye."""
    assert said.exit is not None
    assert (said.exit["logged"], said.exit["dropped"], said.exit["rejected"]) == (said.arrived, 0, 0)
    assert said.seqs == list(range(len(said.seqs)))
    return said


def said_by(code: str, **kwargs: Any) -> Said:
    """What a program said in its life. It must not have printed anything."""
    with Listener() as listener:
        done = run_script(code, listener.endpoint, **kwargs)
        assert (done.stdout, done.stderr) == ("", "")
        return complete(listener.only())


# -- nobody there ------------------------------------------------------------------------------------------------------

EVERYTHING = """
import yprov
yprov.log_param("lr", 1e-3)
yprov.log_params({"a": {"b": 1}})
for k in range(3):
    with yprov.context("training"), yprov.epoch(k), yprov.span("step"):
        yprov.log_metric("loss", 0.5, step=k)
        yprov.log_metrics({"a": 1, "b": 2}, step=k)
yprov.event("saved", path="x")
yprov.log_input("in.csv")
yprov.log_artifact("out.csv", copy=True)
yprov.log_model("net", "net.pt")

@yprov.span("work")
def work(x):
    return x + 1

assert work(1) == 2
"""


def test_without_a_daemon_it_does_nothing_at_all() -> None:
    code = EVERYTHING + """
import sys
assert yprov.flush() is True
assert yprov.log_metric("loss", "not a number") is None
with yprov.context(object()) as c, yprov.epoch("x"):
    pass
assert "zmq" not in sys.modules and "threading" not in sys.modules and "yprov.shipping" not in sys.modules
import threading
assert threading.active_count() == 1
"""
    done = run_script(code, "")
    assert (done.stdout, done.stderr) == ("", "")


def test_outside_of_a_run_there_is_no_current_run() -> None:
    code = "import os; [os.environ.pop(k) for k in list(os.environ) if k.startswith('YPROV_')]; import yprov; " \
           "assert yprov.current_run() is None"
    run_script(code, "")


def test_a_program_knows_its_run() -> None:
    run_script("import yprov; assert yprov.current_run() == ('run-1', '/runs/1'); r = yprov.current_run(); "
               "assert (r.id, r.directory) == ('run-1', '/runs/1')", "")


def test_a_dead_daemon_neither_blocks_nor_holds_the_program_at_its_end() -> None:
    code = EVERYTHING + """
import time
t = time.perf_counter()
for k in range(10000):
    yprov.log_metric("loss", k)
print(time.perf_counter() - t)
t = time.perf_counter()
assert yprov.flush(0.2) is False
print(time.perf_counter() - t)
"""
    began = time.monotonic()
    done = run_script(code, NOBODY)
    assert time.monotonic() - began < 2.5 + 3
    logging, flushing = map(float, done.stdout.split())
    assert logging < 1
    assert 0.2 <= flushing < 1
    assert done.stderr == ""


def test_an_endpoint_that_cannot_be_one_is_said_once_on_stderr() -> None:
    done = run_script(EVERYTHING, "/" + "x" * 200)
    assert done.stdout == ""
    assert done.stderr.count("nothing of this process is recorded") == 1


def test_a_daemon_that_comes_later_gets_everything() -> None:
    code = """
import yprov
for k in range(1000):
    yprov.log_metric("loss", k, step=k)
print("logged", flush=True)
input()
"""
    with Listener(wait=True) as listener, start_script(code, listener.endpoint) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "logged\n"
        listener.listen()
        _, errors = running.communicate("\n", timeout=20)
        assert (running.returncode, errors) == (0, "")
        assert complete(listener.only()).values == list(range(1000))


def test_a_daemon_that_is_replaced_gets_what_the_first_one_did_not_acknowledge() -> None:
    code = """
import yprov
yprov.log_metric("a", 1)
print("logged", flush=True)
input()
yprov.log_metric("a", 2)
"""
    with Listener(acknowledge=False) as listener, start_script(code, listener.endpoint) as running:
        eventually(lambda: listener.messages)
        listener.deaf()
        before = listener.messages
        listener.acknowledge = True
        listener.listen()
        eventually(lambda: listener.messages > before, what="it is sent again")
        running.communicate("\n", timeout=20)
        assert complete(listener.only()).values == [1, 2]


def test_an_import_that_fails_for_a_moment_is_tried_again() -> None:
    code = """
import sys
class Once:
    def find_spec(self, name, path=None, target=None):
        if name == "zmq.constants":
            sys.meta_path.remove(self)
            raise NameError("name 'sys' is not defined")
sys.meta_path.insert(0, Once())
import yprov
yprov.log_metric("loss", 0.5)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        assert (done.stdout, done.stderr) == ("", "")
        (said,) = [complete(s) for s in listener.heard()]
    assert [r.value for r in said.metrics] == [0.5]


def test_without_pyzmq_it_says_so_once_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "zmq").mkdir()
    (tmp_path / "zmq" / "__init__.py").write_text("raise ImportError('No module named zmq')")
    code = EVERYTHING + """
yprov.flush()
import os
if os.fork() == 0:
    yprov.log_metric("child", 1)
    os._exit(0)
os.wait()
print("went on")
"""
    done = run_script(code, NOBODY, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "went on\n"
    assert done.stderr == ("yprov: nothing of this process is recorded: No module named zmq\n"
                           "hint: pip install pyzmq\n")


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_numbers_of_every_kind_are_recorded_and_nothing_else() -> None:
    code = """
import decimal, fractions, math, yprov
import numpy as np

class Tensor:
    def __init__(self, value): self.value = value
    def item(self): return self.value

good = [1, 2.5, True, math.nan, math.inf, -math.inf, np.float32(0.5), np.float64(1.5), np.int64(3), np.bool_(True),
        np.array(4.0), np.array([5.0]), decimal.Decimal("1.5"), fractions.Fraction(1, 2), Tensor(6.5), 10**300]
for k, value in enumerate(good):
    yprov.log_metric("good", value, step=k)
bad = ["3", b"3", np.str_("3"), None, 1j, [1], object(), np.array([1, 2]), Tensor("x"), 10**400]
for value in bad:
    yprov.log_metric("bad", value)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        said = listener.only()
    expected = [1, 2.5, 1, math.nan, math.inf, -math.inf, 0.5, 1.5, 3, 1, 4, 5, 1.5, 0.5, 6.5, 1e300]
    assert repr(said.values) == repr([float(x) for x in expected])
    assert [row.step for row in said.metrics] == list(range(len(expected)))
    assert said.exit is not None
    assert (said.exit["logged"], said.exit["dropped"], said.exit["rejected"]) == (len(expected), 0, 10)
    assert {k: said.losses[-1][k] for k in ("events", "rejected", "reason")} == {
        "events": 0, "rejected": 10, "reason": "log_metric('bad'): not a number: '3'"}
    assert done.stdout == ""
    assert done.stderr == "yprov: log_metric('bad') was not recorded: not a number: '3'\n"  # once


def test_torchs_numbers_are_recorded() -> None:
    pytest.importorskip("torch")
    said = said_by("import torch, yprov\nfor t in (torch.tensor(1.5), torch.tensor([2]), torch.tensor(True)):\n"
                   "    yprov.log_metric('x', t)\n")
    assert said.values == [1.5, 2, 1]


def test_strict_mode_raises_for_tests_of_scripts() -> None:
    code = """
import yprov
failed = []
for call in (
    lambda: yprov.log_metric("a", "3"), lambda: yprov.log_metric("a", 1, step="x"), lambda: yprov.log_metrics(5),
    lambda: yprov.log_metric("a", 1, step=1.5), lambda: yprov.log_metric("a", 1, step=10**30),
    lambda: yprov.log_params(5),
    lambda: yprov.epoch("one").__enter__(), lambda: yprov.epoch(float("nan")).__enter__(),
    lambda: yprov.log_input(5),
    lambda: yprov.log_artifact("x", role="result"), lambda: yprov.flush("soon"),
):
    try:
        yprov.log_metric("good", 1)
        call()
    except (TypeError, ValueError, AttributeError) as e:
        failed.append(e)
print(len(failed))
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint, env={"YPROV_STRICT": "1"})
        assert (done.stdout, done.stderr) == ("11\n", "")
        assert complete(listener.only()).values == [1.0] * 11


def test_mistakes_of_every_kind_are_counted_and_harm_nobody() -> None:
    code = """
import yprov
class Hostile:
    def __str__(self): raise RuntimeError("no")
    __repr__ = __str__
endless = {}
endless["me"] = endless
yprov.log_metric("before", 1)
yprov.log_metric("a", 1, step="x")
yprov.log_metric("a", 1, step=10**30)
yprov.log_metric("a", 1, step=-2**63)
yprov.log_metric(Hostile(), 1)
yprov.log_metrics(5)
yprov.log_param("p", Hostile())
yprov.log_params(endless)
yprov.log_params(None)
with yprov.epoch("one"), yprov.epoch(2.5), yprov.epoch(2**64), yprov.context(Hostile()), yprov.span(Hostile()):
    yprov.log_metric("inside", 2)
yprov.event(Hostile())
yprov.event("e", x=Hostile())
yprov.log_input(None)
yprov.log_artifact("x", role="result")
yprov.log_model("m", Hostile())
assert yprov.flush("soon") is False
yprov.log_metric("after", 3)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        said = listener.only()
    assert said.values == [1, 2, 3]
    assert [(row.context, row.epoch) for row in said.metrics] == [(None, None)] * 3
    assert said.exit is not None
    assert (said.exit["logged"], said.exit["dropped"], said.exit["rejected"]) == (3, 0, 19)
    assert done.stdout == ""
    topics = [line.split("(")[0].split(" was")[0] for line in done.stderr.splitlines()]
    assert len(topics) == len(set(topics))


def test_names_are_kept_as_they_are() -> None:
    code = r"""
import yprov, os
for name in ("train/loss", "größe", "\U0001f600", "", "a b\nc\0", "x" * 1000, 5):
    yprov.log_metric(name, 1, context=name)
with yprov.context("a/b"), yprov.context("größe"), yprov.span("/"):
    yprov.event("e/é", **{"schlüssel": "wert", "a.b": 1})
yprov.log_metric("\udcff", 1)
yprov.log_param("\udcff", "\udc80")
yprov.log_input(os.fsdecode(b"/data/\xff.csv"))
yprov.log_input(b"/data/bytes.csv".decode())
"""
    said = said_by(code)
    names = ["train/loss", "größe", "\U0001f600", "", "a b\nc\0", "x" * 1000, "5"]
    assert [(r.name, r.context) for r in said.metrics] == [(n, n) for n in names] + [("\udcff", None)]
    (event,) = said.of("event")
    assert (event["name"], event["context"]) == ("e/é", "a/b/größe")
    assert event["attributes"] == {"schlüssel": "wert", "a.b": 1}
    assert said.of("param")[0]["name"] == "\udcff"
    assert said.files[0]["path"] == os.fsdecode(b"/data/\xff.csv")


def test_parameters_keep_their_values_and_nested_ones_become_names_with_dots() -> None:
    code = """
import collections, decimal, enum, pathlib, types, yprov
import numpy as np
class Colour(enum.Enum):
    RED = 1
class Level(enum.IntEnum):
    HIGH = 3
yprov.log_params({
    "lr": 1e-3, "on": True, "none": None, "text": "x", "big": 10**30, "huge": 10**6000,
    "decimal": decimal.Decimal("1.50"),
    "list": [1, [2, 3.5]], "tuple": (1, 2), "path": pathlib.PurePosixPath("/x"), "enum": Colour.RED,
    "level": Level.HIGH,
    "float32": np.float32(0.5), "array": np.arange(3), "matrix": np.zeros((1000, 1000)), "empty": {},
    "nan": float("nan"), "optimizer": {"name": "adam", "betas": {"first": 0.9}, 3: 4},
    "proxy": types.MappingProxyType({"a": collections.OrderedDict(b=1)}),
})
mutable = [1]
yprov.log_param("mutable", mutable)
mutable.append(2)
"""
    said = said_by(code)
    found = {e["name"]: e["value"] for e in said.of("param")}
    assert math.isnan(found.pop("nan"))
    assert found.pop("matrix").startswith("[[0. 0. 0.")
    assert found == {
        "lr": 1e-3, "on": True, "none": None, "text": "x", "big": 10**30, "huge": hex(10**6000), "decimal": "1.50",
        "list": [1, [2, 3.5]], "tuple": [1, 2], "path": "/x", "enum": "Colour.RED", "level": 3, "float32": 0.5,
        "array": [0, 1, 2], "empty": {}, "optimizer.name": "adam", "optimizer.betas.first": 0.9, "optimizer.3": 4,
        "proxy.a.b": 1, "mutable": [1],
    }
    assert json.loads(json.dumps(found["on"])) is True


def test_contexts_and_epochs_nest_and_an_explicit_context_wins() -> None:
    code = """
import yprov
yprov.log_metric("m", 0)
with yprov.context("training"):
    yprov.log_metric("m", 1)
    with yprov.epoch(3.0):
        yprov.log_metric("m", 2)
        with yprov.context("augment"), yprov.span("load"):
            yprov.log_metric("m", 3)
            yprov.log_metric("m", 4, context="validation")
    yprov.log_metrics({"m": 5}, context="testing")
    try:
        with yprov.epoch(4):
            raise KeyError
    except KeyError:
        pass
    yprov.log_metric("m", 6)
with yprov.epoch(5), yprov.context("evaluation"):
    yprov.log_metric("m", 7)
yprov.log_metric("m", 8)
"""
    said = said_by(code)
    assert [(r.context, r.epoch) for r in said.metrics] == [
        (None, None), ("training", None), ("training", 3), ("training/augment", 3), ("validation", 3),
        ("testing", None), ("training", None), ("evaluation", 5), (None, None)]
    begins, ends = said.of("begin"), said.of("end")
    assert [(b["kind"], b["name"], b["parent"]) for b in begins] == [
        ("context", "training", 0), ("epoch", "3", 1), ("context", "augment", 2), ("span", "load", 3),
        ("epoch", "4", 1), ("epoch", "5", 0), ("context", "evaluation", 6)]
    assert [b["id"] for b in begins] == [1, 2, 3, 4, 5, 6, 7]
    assert [e["id"] for e in ends] == [4, 3, 2, 5, 1, 7, 6]


def test_a_span_can_be_used_again_and_within_itself_and_as_a_decorator() -> None:
    code = """
import asyncio, yprov
again = yprov.context("c")
with again:
    with again:
        yprov.log_metric("m", 1)
    yprov.log_metric("m", 2)
with again:
    yprov.log_metric("m", 3)
yprov.log_metric("m", 4)

@yprov.context("fib")
def fib(n):
    "Doc."
    if n == 0:
        yprov.log_metric("m", 5)
        raise ValueError(n)
    return fib(n - 1)

try:
    fib(1)
except ValueError:
    pass
assert (fib.__name__, fib.__doc__) == ("fib", "Doc.")

@yprov.context("task")
async def task():
    await asyncio.sleep(0)
    yprov.log_metric("m", 6)
    return 7

assert asyncio.run(task()) == 7
yprov.log_metric("m", 7)
"""
    said = said_by(code)
    assert [r.context for r in said.metrics] == ["c/c", "c", "c", None, "fib/fib", "task", None]
    assert len(said.of("begin")) == len(said.of("end")) == 6


def test_parameters_may_come_as_a_namespace_a_dataclass_or_an_object() -> None:
    code = """
import argparse, dataclasses, types, yprov
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.set_defaults(run=print, inner=argparse.Namespace(depth=2))
yprov.log_params(parser.parse_args(["--lr", "0.5"]))

@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    _private: int = 3

@dataclasses.dataclass(slots=True)
class Config:
    batch: int = 8
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

yprov.log_params(Config())
yprov.log_params({"of": types.SimpleNamespace(a=1), "kind": Config, "empty": {}})

class Settings:
    ignored = 1
    def __init__(self):
        self.size, self._cache = 4, {}

yprov.log_params(Settings(), role="output")

class Like:
    "A mapping in all but its name, as a row of a table."
    def items(self):
        return [("row", 1)]

yprov.log_params(Like())
"""
    said = said_by(code)
    assert {e["name"]: e["value"] for e in said.of("param") if "role" not in e} == {
        "lr": 0.5, "run": "<built-in function print>", "inner.depth": 2, "batch": 8, "optimizer.name": "adam",
        "optimizer._private": 3, "of.a": 1, "row": 1, "kind": "<class '__main__.Config'>", "empty": {}}
    assert [(e["name"], e["value"]) for e in said.of("param") if "role" in e] == [("size", 4)]


@pytest.mark.parametrize("params", ["3", "[1]", "None", "print", "lambda: 0", "int", "'lr=3'"])
def test_what_holds_no_parameters_is_rejected(params: str) -> None:
    with Listener() as listener:
        done = run_script(f"import yprov\nyprov.log_params({params})", listener.endpoint)
        assert done.stderr.startswith("yprov: log_params() was not recorded: not a mapping, a namespace or a dataclass")
        said = listener.only()
    assert said.exit is not None
    assert (said.exit["logged"], said.exit["rejected"]) == (0, 1)


def test_the_error_of_the_one_call_that_may_raise_can_be_caught_by_its_name(tmp_path: Path) -> None:
    import yprov
    from yprovd.errors import YprovError

    assert yprov.YprovError is YprovError
    with pytest.raises(yprov.YprovError):
        yprov.open_run(tmp_path / "nowhere")
    with pytest.raises(AttributeError, match="module 'yprov' has no attribute 'nothing'"):
        yprov.nothing  # noqa: B018  # type: ignore[attr-defined]


GENERATORS = """
import yprov
@yprov.context("c")
def steps(n):
    for k in range(n):
        yprov.log_metric("inner", k)
        with yprov.span("work"):
            got = yield k
        yprov.log_metric("got", got or -1)
    return "done"
"""


def in_the_generator(said: Said) -> list[tuple[str, float, str | None]]:
    return [(row.name, row.value, row.context) for row in said.metrics]


def test_a_generators_span_lasts_from_its_first_step_to_its_last_and_its_metrics_are_in_it() -> None:
    code = GENERATORS + """
import inspect, threading
assert inspect.isgeneratorfunction(steps)
never = steps(9)
g = steps(2)
yprov.event("made")
assert next(g) == 0
yprov.log_metric("outer", 1)
thread = threading.Thread(target=lambda: yprov.log_metric("thread", 1)); thread.start(); thread.join()
assert g.send(7) == 1
try:
    next(g)
except StopIteration as stop:
    assert stop.value == "done"
else:
    raise AssertionError
yprov.log_metric("outer", 2)
assert list(g) == []
"""
    said = said_by(code)
    assert in_the_generator(said) == [
        ("inner", 0, "c"), ("outer", 1, None), ("thread", 1, None), ("got", 7, "c"), ("inner", 1, "c"),
        ("got", -1, "c"), ("outer", 2, None)]
    first, *inner = said.of("begin")
    assert (first["kind"], first["name"], first["parent"]) == ("context", "c", 0)
    assert [(b["name"], b["parent"], b["context"]) for b in inner] == [("work", first["id"], "c")] * 2
    assert [e["id"] for e in said.of("end")] == [inner[0]["id"], inner[1]["id"], first["id"]]
    assert said.of("event")[0]["t"] < first["t"] < said.metrics[1].mono_ns < said.of("end")[-1]["t"]


@pytest.mark.parametrize("end", ["g.close()", "del g; gc.collect()", "raised(g.throw, KeyError('x'))"])
def test_a_generator_that_is_closed_dropped_or_thrown_at_ends_its_span_then(end: str) -> None:
    code = GENERATORS + f"""
import gc
def raised(throw, error):
    try:
        throw(error)
    except KeyError as e:
        assert e is error
    else:
        raise AssertionError
g = steps(5)
with yprov.epoch(3):
    next(g)
yprov.log_metric("outer", 1)
{end}
yprov.log_metric("outer", 2)
"""
    said = said_by(code)
    assert in_the_generator(said) == [("inner", 0, "c"), ("outer", 1, None), ("outer", 2, None)]
    epoch, context, work = said.of("begin")
    assert (context["epoch"], context["parent"]) == (3, epoch["id"])  # where its first step was made
    assert [e["id"] for e in said.of("end")] == [epoch["id"], work["id"], context["id"]]
    assert said.metrics[1].mono_ns < said.of("end")[-1]["t"] < said.metrics[2].mono_ns


def test_generators_that_are_interleaved_and_nested_keep_to_their_own_scope() -> None:
    code = """
import threading, yprov
def thread(value):
    one = threading.Thread(target=lambda: yprov.log_metric("thread", value)); one.start(); one.join()

def named(name):
    @yprov.context(name)
    def steps(inner=()):
        with yprov.epoch(ord(name)):
            for k in range(3):
                yprov.log_metric(name, k)
                thread(k)
                for _ in inner:
                    yprov.log_metric(name, 10 + k)
                yield k
    return steps

with yprov.context("all"):
    for _ in zip(named("a")(), named("b")()):
        yprov.log_metric("all", 0)
    assert list(named("d")(named("e")())) == [0, 1, 2]
    thread(9)
yprov.log_metric("all", 1)
thread(9)
"""
    said = said_by(code)
    at = {"a": ("all/a", 97), "b": ("all/b", 98), "d": ("all/d", 100), "e": ("all/d/e", 101), "all": ("all", None)}
    last = ("", None)
    for row in said.metrics[:-2]:
        here = (row.context, row.epoch)
        if row.name == "thread" and row.value == 9:
            assert here == ("all", None)
        elif row.name == "thread":  # it is where the main thread is
            assert here == last
        else:
            assert here == at[row.name], row
        last = here
    assert [(r.name, r.context, r.epoch) for r in said.metrics[-2:]] == [("all", None, None), ("thread", None, None)]
    # `b` was not asked to its end: it was dropped there.
    assert len(said.of("begin")) == len(said.of("end")) == 9


def test_a_decorated_generator_behaves_like_the_plain_one_whatever_is_done_to_it() -> None:
    """In a run and outside of one."""
    code = """
import contextlib, sys, yprov
log = []
def plain():
    value = "begun"
    while True:
        try:
            value = yield value
            if value == "return":
                return 5
        except KeyError as e:
            value = ("caught", e)
        except GeneratorExit:
            if log:
                return 6
            log.append("refused")
            value = "refused"

def life(function):
    del log[:]
    out, g = [], function()
    def do(call, *args):
        try:
            out.append(call(*args))
        except BaseException as e:
            out.append((type(e), e.args, type(e.__cause__), type(e.__context__)))
    error = KeyError(1)
    do(g.send, "too early"); do(g.__next__); do(g.send, 1); do(g.throw, error); do(g.throw, KeyError, KeyError(2))
    assert out[3] == ("caught", error)
    do(g.throw, GeneratorExit()); do(g.throw, GeneratorExit())
    do(g.__next__); do(g.close); do(g.send, None)
    out[3:5] = []
    g = function(); do(g.close); do(g.__next__)
    del log[:]; g = function(); next(g); do(g.close); do(g.close)
    g = function(); next(g); do(g.send, "return"); do(g.__next__)
    g = function(); next(g); do(g.throw, StopIteration(3)); do(g.__next__)
    g = function(); do(g.throw, ValueError(4)); do(g.__next__)
    g = function(); next(g); do(g.throw, ValueError(5)); do(lambda: sys.exc_info())
    g = function(); do(lambda: (yield_from(g), None))
    return out

def yield_from(g):
    def outer():
        return (yield from g)
    g = outer(); next(g)
    try:
        g.send("return")
    except StopIteration as stop:
        return stop.value

import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # three arguments of throw()
expected, got = life(plain), life(yprov.span("s")(plain))
assert expected == got, [pair for pair in zip(expected, got) if pair[0] != pair[1]]
assert ((5,) in [x[1] for x in got if isinstance(x, tuple) and len(x) == 4]), got

@contextlib.contextmanager
@yprov.context("managed")
def managed():
    try:
        yield 1
    except ZeroDivisionError:
        yprov.log_metric("m", 1)
with managed() as one:
    1 / 0
try:
    with managed():
        raise StopIteration(1)
except StopIteration as e:
    assert e.args == (1,)
"""
    said = said_by(code)
    assert len(said.of("begin")) == len(said.of("end"))
    assert [r.context for r in said.metrics] == ["managed"]
    done = run_script(code, "")
    assert (done.stdout, done.stderr) == ("", "")


def test_async_generators_are_recorded_like_the_others() -> None:
    code = """
import asyncio, contextlib, inspect, yprov
@yprov.context("stream")
async def stream(name, n):
    try:
        for k in range(n):
            await asyncio.sleep(0)
            yprov.log_metric(name, k)
            try:
                assert (yield k) in (None, 5)
            except KeyError:
                yprov.log_metric(name, 100)
    finally:
        await asyncio.sleep(0)
        yprov.log_metric(name, -1)
assert inspect.isasyncgenfunction(stream)

async def read(name):
    with yprov.context(name):
        async for k in stream(name, 2):
            yprov.log_metric("outer", k)
            await asyncio.sleep(0)

async def main():
    await asyncio.gather(read("a"), read("b"))
    g = stream("c", 5)
    assert await anext(g) == 0
    assert await g.asend(5) == 1
    assert await g.athrow(KeyError("x")) == 2
    await g.aclose()
    yprov.log_metric("closed", 0)
    assert [k async for k in g] == []
    dropped = stream("d", 5)
    await anext(dropped)
    del dropped
    await asyncio.sleep(0.01)
    left = stream("e", 5)  # the loop closes it at its end
    await anext(left)
    try:
        await anext(stream("f", 1, 2, 3))
    except TypeError:
        pass
    globals()["left"] = left

asyncio.run(main())
"""
    said = said_by(code)
    rows = [(r.name, r.value, r.context) for r in said.metrics]
    for name in "ab":
        assert [row for row in rows if row[0] == name or row[::2] == ("outer", name)] == [
            (name, 0, f"{name}/stream"), ("outer", 0, name), (name, 1, f"{name}/stream"), ("outer", 1, name),
            (name, -1, f"{name}/stream")]
    assert [row for row in rows if row[0] in "cdeclosed" and row[0] != "outer"] == [
        ("c", 0, "stream"), ("c", 1, "stream"), ("c", 100, "stream"), ("c", 2, "stream"), ("c", -1, "stream"),
        ("closed", 0, None), ("d", 0, "stream"), ("d", -1, "stream"), ("e", 0, "stream"), ("e", -1, "stream")]
    assert sorted(b["id"] for b in said.of("begin")) == sorted(e["id"] for e in said.of("end"))
    assert len(said.of("begin")) == 2 + 5


def test_threads_are_where_the_main_thread_is_until_they_go_elsewhere() -> None:
    code = """
import threading, yprov
def work():
    yprov.log_metric("m", 1)
    with yprov.context("inner"):
        yprov.log_metric("m", 2)
        ready.set()
        go.wait()
    yprov.log_metric("m", 4)
ready, go = threading.Event(), threading.Event()
with yprov.context("training"), yprov.epoch(1):
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    yprov.log_metric("m", 3)  # what a thread opens is its own
go.set()
thread.join()
"""
    said = said_by(code)
    assert [(r.value, r.context, r.epoch) for r in said.metrics] == [
        (1, "training", 1), (2, "training/inner", 1), (3, "training", 1), (4, None, None)]


def test_tasks_keep_to_their_own_scope() -> None:
    code = """
import asyncio, yprov
async def one(name, mine, other):
    with yprov.context(name):
        mine.set()
        await other.wait()
        yprov.log_metric(name, 1)
async def none():
    yprov.log_metric("none", 1)
async def main():
    a, b = asyncio.Event(), asyncio.Event()
    await asyncio.gather(one("a", a, b), none(), one("b", b, a), none())
    yprov.log_metric("none", 1)
    with yprov.context("outer"):
        await asyncio.gather(one("a", a, b), one("b", b, a))
asyncio.run(main())
yprov.log_metric("none", 1)
import threading
thread = threading.Thread(target=yprov.log_metric, args=("none", 1))
thread.start()
thread.join()
"""
    said = said_by(code)
    assert sorted((r.name, str(r.context)) for r in said.metrics) == [
        ("a", "a"), ("a", "outer/a"), ("b", "b"), ("b", "outer/b"), *[("none", "None")] * 5]


def test_files_are_declared_with_where_they_were_named(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys, yprov
os.chdir(sys.argv[1])
with yprov.context("training"), yprov.epoch(2):
    yprov.log_input("in.csv")
    yprov.log_artifact(pathlib.Path("out") / "x.csv", copy=True)
    yprov.log_artifact("/data/y", role="input")
    yprov.log_model("net", "net.pt")
"""
    with Listener() as listener:
        run_script(code, listener.endpoint, str(tmp_path))
        said = complete(listener.only())
    rows = [(f["role"], f["path"], f["name"], f["copy"]) for f in said.files]
    assert rows == [("input", f"{tmp_path}/in.csv", "in.csv", False),
                    ("output", f"{tmp_path}/out/x.csv", "x.csv", True),
                    ("input", "/data/y", "y", False), ("model", f"{tmp_path}/net.pt", "net", False)]
    assert {(f["context"], f["epoch"]) for f in said.files} == {("training", 2)}


def test_a_file_that_the_script_says_to_have_made_and_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    code = """
import os, sys, yprov
os.chdir(sys.argv[1])
open("there.txt", "w").close()
yprov.log_artifact("there.txt")
yprov.log_artifact("forgotten.txt")
yprov.log_model("net", "forgotten.pt")
yprov.log_input("never.csv")
yprov.log_input("\\0")
yprov.log_artifact("s3://bucket/there")
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint, str(tmp_path))
        said = complete(listener.only())
    assert done.stdout == ""
    assert done.stderr == f"yprov: there is no `{tmp_path}/forgotten.txt`: it is recorded as declared, and missing\n"
    assert [f.get("seen", False) for f in said.files] == [True, False, False, False, False, False]


def test_a_process_says_who_it_is_and_which_rank() -> None:
    code = "import yprov, os; yprov.log_metric('a', 1); print(os.getpid())"
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_PROCID": "0"}
    with Listener() as listener:
        done = run_script(code, listener.endpoint, env=torchrun)
        about = listener.only().about
    assert (about["rank"], about["world_size"], about["local_rank"]) == (3, 8, 1)
    assert (about["role"], about["pid"], about["host"]) == ("process", int(done.stdout), os.uname().nodename)


# -- how much ----------------------------------------------------------------------------------------------------------


def test_eight_threads_with_fifty_thousand_events_each_lose_nothing() -> None:
    code = """
import threading, yprov
def work(k):
    for i in range(50_000):
        yprov.log_metric("m", i, step=k)
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    said = said_by(code)
    assert len(said.metrics) == 400_000
    by_thread: list[list[float]] = [[] for _ in range(8)]
    for row in said.metrics:
        by_thread[row.step or 0].append(row.value)
    assert by_thread == [list(range(50_000))] * 8


def test_a_full_queue_is_counted_and_said_once() -> None:
    code = """
import sys, yprov
sys.modules["yprov.client"].client.limit = 100
sys.setswitchinterval(1000)  # nobody empties the queue while we fill it
for k in range(1000):
    yprov.log_metric("m", k)
for k in range(1000):
    yprov.event("e", k=k)
sys.setswitchinterval(0.005)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        said = listener.only()
    assert said.exit is not None
    assert said.exit["logged"] == said.arrived
    assert said.exit["logged"] + said.exit["dropped"] == 2000
    assert said.exit["dropped"] >= 1000
    assert said.losses[-1]["events"] == said.exit["dropped"]
    assert done.stdout == ""
    assert done.stderr == "yprov: events come faster than they can be sent; what is left out is counted\n"


def test_what_the_bound_pushes_out_is_counted_too() -> None:
    code = """
import sys, yprov
import yprov.shipping
yprov.shipping.SEND_LIMIT = 30_000
client = sys.modules["yprov.client"].client
for k in range(15):
    yprov.event("e", text="x" * 10_000)
    while client._events:
        yprov.flush(0.001)
print(1, flush=True)
input()
yprov.event("last")
"""
    with Listener(wait=True) as listener, start_script(code, listener.endpoint) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        listener.listen()
        running.communicate("\n", timeout=20)
        said = listener.only()
    gaps = set(range(max(said.seqs))) - set(said.seqs)
    assert gaps
    assert said.about["pid"] == running.pid  # announced again, for it was among what was lost
    assert said.losses[-1]["pushed_out"] >= len(gaps)  # some may have been under way already
    assert len(said.of("event")) < 16


def test_events_too_long_for_one_frame_go_in_several() -> None:
    code = """
import sys, yprov
import yprovd.wire
yprovd.wire.MAX_PAYLOAD = 10_000
for k in range(20):
    yprov.event("e", k=k, text="x" * 3000)
yprov.event("too long", text="x" * 20_000)
for k in range(2000):
    yprov.log_metric("m", k)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        said = listener.only()
    assert [e["attributes"]["k"] for e in said.of("event")] == list(range(20))
    assert said.values == list(range(2000))
    assert said.exit is not None
    assert (said.exit["logged"], said.exit["dropped"], said.exit["rejected"]) == (2020, 0, 1)
    assert said.losses[-1]["rejected"] == 1
    assert said.losses[-1]["reason"].startswith("'too long': a payload of 20")
    assert said.seqs == list(range(len(said.seqs)))
    assert done.stderr == "yprov: 1 events were not recorded: they cannot be written\n"


def test_results_and_datasets_say_what_they_are(tmp_path: Path) -> None:
    said = said_by(f"""
import yprov
yprov.log_param("lr", 0.1)
yprov.log_params({{"best": {{"lr": 0.3}}}}, role="output")
with yprov.context("training"):
    yprov.log_dataset("digits", {str(tmp_path)!r} + "/digits.csv")
""")
    assert [(e["name"], e["value"], e.get("role", "input")) for e in said.of("param")] == [
        ("lr", 0.1, "input"), ("best.lr", 0.3, "output")]
    (declared,) = said.files
    assert (declared["role"], declared["name"], declared["path"], declared["context"]) == (
        "dataset", "digits", f"{tmp_path}/digits.csv", "training")


def test_an_address_stays_an_address(tmp_path: Path) -> None:
    (declared,) = said_by("import yprov; yprov.log_dataset('d', 's3://bucket/a//b.csv')").files
    assert declared["path"] == "s3://bucket/a//b.csv"


def test_a_parameter_of_a_role_that_there_is_not_is_told_and_counted() -> None:
    with Listener() as listener:
        done = run_script("import yprov; yprov.log_param('odd', 1, role='both')", listener.endpoint)
        said = listener.only()
    assert done.stderr == ("yprov: log_param('odd') was not recorded: the role of a parameter is `input` or `output`, "
                           "not `both`\n")
    assert said.of("param") == []
    assert said.exit is not None
    assert (said.exit["dropped"], said.exit["rejected"]) == (0, 1)


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("import sys; sys.exit(3)", 3), ("raise SystemExit", 0), ("1 / 0", 1),
     ("import threading; threading.Thread(target=lambda: yprov.log_metric('m', 2)).start()", 0)],
)
def test_the_last_words_of_a_program_arrive_however_it_ends(end: str, status: int) -> None:
    with Listener() as listener:
        done = run_script(f"import yprov\nyprov.log_metric('m', 1)\n{end}", listener.endpoint, status=status)
        assert complete(listener.only()).values[0] == 1
    assert done.stdout == ""
    assert ("ZeroDivisionError" in done.stderr) == (status == 1)


def test_handlers_of_the_script_at_its_end_are_heard_whenever_they_were_registered() -> None:
    code = """
import atexit
import yprov
atexit.register(lambda: yprov.log_metric("m", 3))
yprov.log_metric("m", 1)
atexit.register(lambda: yprov.log_metric("m", 2))
"""
    assert said_by(code).values == [1, 2, 3]


def test_what_is_flushed_survives_os_exit() -> None:
    code = """
import os, yprov
for k in range(1000):
    yprov.log_metric("m", k)
assert yprov.flush(10) is True
assert yprov.flush(10) is True
os._exit(0)
"""
    with Listener() as listener:
        run_script(code, listener.endpoint)
        said = listener.only()
    assert said.values == list(range(1000))
    assert said.exit is None


def test_flush_tells_whether_it_is_on_disk() -> None:
    code = """
import os, time, yprov
yprov.log_metric("m", 1)
t = time.perf_counter()
assert yprov.flush(0.3) is False
assert 0.25 < time.perf_counter() - t < 1
os._exit(0)
"""
    with Listener(acknowledge=False) as listener:
        run_script(code, listener.endpoint)
        assert listener.only().values == [1]


def test_flush_from_many_threads_and_after_a_rest_is_quick() -> None:
    code = """
import sys, threading, time, yprov
client = sys.modules["yprov.client"].client
yprov.log_metric("m", 1)
yprov.flush()
while not client._idle:
    time.sleep(0.01)
t = time.perf_counter()
def work():
    for k in range(5):
        yprov.log_metric("m", k)
        assert yprov.flush(5)
threads = [threading.Thread(target=work) for _ in range(4)]
[x.start() for x in threads]
[x.join() for x in threads]
print(time.perf_counter() - t)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        assert len(complete(listener.only()).metrics) == 21
    assert float(done.stdout) < 5
    assert done.stderr == ""


def test_a_signal_handler_of_the_script_may_log() -> None:
    code = """
import os, signal, sys, yprov
sys.modules["yprov.client"].client.limit = 50  # so that the rare paths are taken too
signal.signal(signal.SIGALRM, lambda *_: (yprov.event("alarm"), yprov.log_metric("m", "bad")))
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for k in range(20_000):
    yprov.log_metric("m", k)
signal.setitimer(signal.ITIMER_REAL, 0)
print("done")
"""
    with Listener() as listener:
        assert run_script(code, listener.endpoint).stdout == "done\n"
        said = listener.only()
    assert said.exit is not None
    assert said.exit["logged"] == said.arrived


def test_a_signal_handler_may_flush_wherever_it_interrupts_the_program() -> None:
    code = """
import os, signal, time, yprov
calls = 0
def handler(*_):
    global calls
    calls += 1
    yprov.log_metric("s", calls)
    yprov.flush(1)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
signal.signal(signal.SIGALRM, handler)
yprov.log_metric("m", 0)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
end = time.monotonic() + 1
while time.monotonic() < end:
    yprov.flush(0.05)
signal.setitimer(signal.ITIMER_REAL, 0)
print(calls > 3, yprov.flush(10))
"""
    with Listener() as listener:
        assert run_script(code, listener.endpoint).stdout == "True True\n"
        complete(listener.only())


def test_a_handler_of_the_end_that_comes_after_ours_may_be_the_first_to_log() -> None:
    code = """
import atexit
atexit.register(lambda: (yprov.log_metric("m", 1), print(yprov.flush(10))))
import yprov
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        assert (done.stdout, done.stderr) == ("True\n", "")
        assert listener.only().values == [1]


@pytest.mark.parametrize("before", ["", "import threading", "yprov.log_metric('m', 1)"])
def test_a_finalizer_that_runs_after_the_programs_end_is_told_so_once(before: str) -> None:
    code = f"""
import yprov
class Last:
    def __del__(self):
        yprov.log_metric("m", 2)
        yprov.log_param("p", object())
        assert yprov.flush(5) is False
last = Last()
{before}
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        heard = [complete(said).values for said in listener.heard()]
    assert heard == ([[1]] if "log_metric" in before else [])
    assert (done.stdout, done.stderr) == ("", "yprov: what is logged after the program's end is not recorded\n")


def test_a_finalizer_that_runs_in_our_thread_does_not_wait_for_it() -> None:
    code = """
import gc, sys, time, yprov, yprov.shipping
receive = yprov.shipping.Shipper.receive
class Cycle:
    def __init__(self): self.me = self
    def __del__(self):
        yprov.log_metric("gone", 1)
        took.append(time.perf_counter())
        assert yprov.flush(30) is False  # nobody else could send
        took.append(time.perf_counter())
def collecting(self, timeout_ms):
    if not took:
        Cycle()
        gc.collect()
    receive(self, timeout_ms)
took = []
yprov.shipping.Shipper.receive = collecting
yprov.log_metric("m", 1)
assert yprov.flush(10) is True
print(took[1] - took[0] < 1)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        assert complete(listener.only()).values == [1, 1]
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("later", [False, True])
def test_without_a_thread_to_be_had_the_last_words_are_sent_at_the_end(later: bool) -> None:
    code = f"""
import threading, yprov
real = threading._start_new_thread
def refused(*_):
    raise RuntimeError("can't start new thread")
threading._start_new_thread = refused
yprov.log_metric("m", 1)
yprov.log_metric("m", "x")
assert yprov.flush(0.01) is False
if {later}:
    threading._start_new_thread = real
    yprov.log_metric("m", 2)
    assert yprov.flush(10) is True
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        said = listener.only()
    assert said.values == ([1, 2] if later else [1])
    assert said.exit is not None
    assert (said.exit["logged"], said.exit["dropped"], said.exit["rejected"]) == (len(said.values), 0, 1)
    assert done.stderr == "yprov: log_metric('m') was not recorded: not a number: 'x'\n"


def test_a_failure_of_our_thread_is_a_sentence_and_no_traceback() -> None:
    code = """
import yprov, yprov.shipping
def broken(self, timeout_ms):
    raise ValueError("broken")
yprov.shipping.Shipper.receive = broken
yprov.log_metric("m", 1)
assert yprov.flush(10) is False
yprov.log_metric("m", 2)
print("went on")
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
    assert (done.stdout, done.stderr) == (
        "went on\n", "yprov: the rest of this process is not recorded: ValueError: broken\n")


def test_an_interrupt_while_the_last_words_are_waited_for_ends_the_program_without_a_traceback() -> None:
    code = """
import os, signal, threading, yprov
import yprov.shipping
def wait(self, timeout_s):
    os.kill(os.getpid(), signal.SIGINT)  # the program is at its end, and waits for us
    threading.Event().wait(30)
yprov.shipping.Shipper.wait = wait
yprov.log_metric("m", 1)
"""
    with Listener(acknowledge=False) as listener:
        began = time.monotonic()
        done = run_script(code, listener.endpoint)
        assert time.monotonic() - began < 20
    assert (done.stdout, done.stderr) == ("", "")


def test_what_takes_too_long_at_the_end_is_said() -> None:
    code = """
import threading, yprov
import yprov.shipping
yprov.shipping.Shipper.wait = lambda self, timeout_s: threading.Event().wait(30)
yprov.log_metric("m", 1)
"""
    with Listener() as listener:
        began = time.monotonic()
        done = run_script(code, listener.endpoint)
        assert time.monotonic() - began < 15
    assert (done.stdout, done.stderr) == ("", "yprov: the last events could not be sent within 2 s\n")


def test_a_killed_program_leaves_what_it_sent() -> None:
    code = "import yprov; yprov.log_metric('m', 1); yprov.flush(); print(1, flush=True); input()"
    with Listener() as listener, start_script(code, listener.endpoint) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert listener.only().values == [1]
        assert listener.only().exit is None


# -- forks -------------------------------------------------------------------------------------------------------------


def test_a_fork_in_the_middle_of_logging_makes_two_processes_that_lose_nothing() -> None:
    code = """
import os, sys, threading, yprov
def work(name, n, go):
    go.wait()
    for k in range(n):
        yprov.log_metric(name, k)
def threads(name):
    go = threading.Event()
    all = [threading.Thread(target=work, args=(f"{name}{i}", 3000, go)) for i in range(3)]
    [t.start() for t in all]
    go.set()
    return all
with yprov.context("training"), yprov.epoch(1):
    running = threads("parent")
    children = []
    for c in range(3):
        pid = os.fork()
        if pid == 0:
            mine = threads(f"child{c}-")
            yprov.log_metric("main", c)
            [t.join() for t in mine]
            sys.exit(0)
        children.append(pid)
    [t.join() for t in running]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        heard = listener.heard()
    assert (done.stdout, done.stderr) == ("", "")
    assert len(heard) == 4
    found: dict[str, list[float]] = {}
    for said in heard:
        complete(said)
        for row in said.metrics:
            assert (row.context, row.epoch) == ("training", 1)
            found.setdefault(row.name, []).append(row.value)
    threads = [f"{who}{i}" for who in ("parent", "child0-", "child1-", "child2-") for i in range(3)]
    assert {name: sorted(values) for name, values in found.items() if name != "main"} == \
        {name: list(range(3000)) for name in threads}
    assert found["main"] == [0, 1, 2]


def test_a_span_that_the_parent_opened_is_the_parents_to_close() -> None:
    code = """
import os, sys, yprov
with yprov.context("training"), yprov.span("outer"):
    pid = os.fork()
    if pid == 0:
        with yprov.span("mine"):
            yprov.log_metric("child", 1)
if pid == 0:
    with yprov.span("later"):
        yprov.log_metric("child", 2)
    sys.exit(0)
os.waitpid(pid, 0)
"""
    with Listener() as listener:
        run_script(code, listener.endpoint)
        parent, child = (complete(s) for s in sorted(listener.heard(), key=lambda s: len(s.metrics)))
    assert [b["name"] for b in parent.of("begin")] == ["training", "outer"]
    assert len(parent.of("end")) == 2
    assert [(b["name"], b["parent"], b["context"]) for b in child.of("begin")] == \
        [("mine", 0, "training"), ("later", 0, None)]  # the parent's spans have numbers of the parent's
    assert sorted(b["id"] for b in child.of("begin")) == sorted(e["id"] for e in child.of("end"))
    assert [r.context for r in child.metrics] == ["training", None]


@pytest.mark.parametrize("delay", [0, 0.01, 0.02, 0.03, 0.05, 0.08])
def test_a_child_that_is_forked_while_the_client_loads_can_import_what_it_likes(delay: float) -> None:
    """The thread of the client imports zmq and what that needs; a fork in the middle of an import would leave the
    child with modules that are locked for good."""
    code = f"""
import os, time, yprov
yprov.log_param("lr", 1)
end = time.perf_counter() + {delay}
while time.perf_counter() < end:
    pass
pid = os.fork()
if pid == 0:
    import signal
    signal.alarm(20)
    import json, platform, struct, zmq, yprov.shipping
    yprov.log_metric("child", 1)
    assert yprov.flush(10)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    with Listener() as listener:
        run_script(code, listener.endpoint)
        assert [len(s.metrics) for s in sorted(listener.heard(), key=lambda s: len(s.metrics))] == [0, 1]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_say_their_last_words(tmp_path: Path, method: str) -> None:
    code = """
import multiprocessing, sys
import yprov
def work(k):
    with yprov.span("work"):
        yprov.log_metric("worker", k)
    return k
def process(k):
    work(k)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    yprov.log_metric("main", 0)
    with yprov.context("training"):
        all = [context.Process(target=process, args=(k,)) for k in range(2)]
        [p.start() for p in all]
        [p.join() for p in all]
        assert [p.exitcode for p in all] == [0, 0]
        with context.Pool(2) as pool:
            assert pool.map(work, range(2, 6), chunksize=1) == [2, 3, 4, 5]
            pool.close()
            pool.join()
    yprov.log_metric("main", 1)
"""
    with Listener() as listener:
        done = run_script(code, listener.endpoint, method, file=tmp_path / "main.py")
        assert (done.stdout, done.stderr) == ("", "")
        heard = [complete(s) for s in listener.heard()]
    rows = [row for said in heard for row in said.metrics]
    assert sorted(r.value for r in rows if r.name == "worker") == [0, 1, 2, 3, 4, 5]
    assert [r.value for r in rows if r.name == "main"] == [0, 1]
    if method == "fork":
        assert {r.context for r in rows if r.name == "worker"} == {"training"}


def test_workers_like_those_of_a_dataloader_cost_nothing_when_they_say_nothing() -> None:
    code = """
import multiprocessing, threading, time, yprov
def worker(queue, out):
    while (item := queue.get()) is not None:
        out.put(item * 2)
    assert threading.active_count() <= 2, threading.enumerate()  # the queue's feeder, and none of ours
context = multiprocessing.get_context("fork")
for k in range(2):
    with yprov.epoch(k):
        queue, out = context.Queue(), context.Queue()
        workers = [context.Process(target=worker, args=(queue, out), daemon=True) for _ in range(4)]
        [w.start() for w in workers]
        [queue.put(i) for i in range(20)]
        for i in range(20):
            yprov.log_metric("batch", out.get(), step=i)
        [queue.put(None) for _ in workers]
        t = time.perf_counter()
        [w.join() for w in workers]
        assert time.perf_counter() - t < 2
        assert [w.exitcode for w in workers] == [0] * 4
        queue.close(); out.close(); queue.join_thread(); out.join_thread()
"""
    said = said_by(code)
    assert len(said.metrics) == 40
    assert sorted(v for v in said.values[:20]) == [2 * i for i in range(20)]


CLOSING = """
import os, sys, yprov
def asleep():
    others = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
    return all(open(f"/proc/self/task/{one}/stat").read().rpartition(") ")[2][0] == "S" for one in others)
def close_all():
    assert yprov.flush()
    seen = 0
    while seen < 20:
        seen = seen + 1 if asleep() else 0
    os.closerange(3, 256)
"""


@pytest.mark.parametrize("then", [
    "", "yprov.log_metric('m', 2)", "opened = [open('/dev/null') for _ in range(40)]; yprov.log_metric('m', 2)",
    "yprov.log_metric('m', 2); close_all(); yprov.log_metric('m', 3)",
    "assert yprov.flush(); del sys.modules['yprov']; import gc; gc.collect()"])
def test_a_program_that_closes_all_descriptors_lives_and_is_recorded(then: str) -> None:
    """As daemons do: also those of libzmq, which aborts the process when it finds out. It does not while it rests."""
    code = CLOSING + "yprov.log_metric('m', 1)\nclose_all()\n" + then
    with Listener() as listener:
        done = run_script(code, listener.endpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        said = complete(listener.only())
    assert said.values == [1.0, 2.0, 3.0][:1 + then.count("log_metric")]


def test_a_fork_of_a_fork_is_a_process_of_its_own_too() -> None:
    code = """
import os, sys, yprov
yprov.log_metric("m", 0)
for depth in (1, 2):
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        sys.exit(0)
    yprov.log_metric("m", depth)
"""
    with Listener() as listener:
        run_script(code, listener.endpoint)
        assert sorted(complete(s).values[0] for s in listener.heard()) == [0, 1, 2]
