"""What the sampler relies on, of every sensor in the table: on this machine, as far as it has them, and on directories
that have them all."""

import gc
import os
import time

import pytest

from tests import nodes
from yprovd.model import Schema
from yprovd.sensors import SENSORS, Surroundings, open_all

#: The sensors that have to open on the plain host, and on whole nodes.
PLAIN = ("cpu", "memory", "processes", "cgroup", "disk", "network", "rapl")
NODES = {
    nodes.frontier: ("cray", "amd", "slingshot"), nodes.mi300a: ("amd",), nodes.h100_mig: ("nvidia", "rapl"),
    nodes.grace_hopper: ("nvidia", "hwmon"), nodes.cluster_node: ("rapl", "infiniband", "lustre"),
}
PLACES = [*(("machine", name) for name in SENSORS), *(("plain host", name) for name in PLAIN),
          *((build, name) for build, names in NODES.items() for name in names)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Each node, built once."""
    made = {}

    def get(build):
        if build not in made:
            made[build] = build(tmp_path_factory.mktemp(build.__name__) / "root")
        return made[build]

    return get


@pytest.fixture(params=PLACES, ids=lambda place: f"{getattr(place[0], '__name__', place[0])}-{place[1]}")
def place(request, host, built):
    """(name of a sensor, its surroundings, what moves its numbers on, whether it has to be there)."""
    where, name = request.param
    if where == "machine":
        return name, Surroundings("/", "contract-test", dict(os.environ)), (), False
    if where == "plain host":
        return name, host.where(SLURM_JOB_ID="4242"), (), True
    node = built(where)
    for part in node.parts:
        part(time.time())
    return name, Surroundings(str(node.root), "contract-test", {}), node.parts, True


@pytest.fixture
def sensor(place, opened):
    name, where, _, required = place
    sensors, absences = open_all(where, table={name: SENSORS[name]})
    for absence in absences:
        assert absence.reason
        assert not required, absence
        pytest.skip(absence.reason)
    return opened(sensors[0])


def test_one_value_per_metric_and_counters_never_decrease(sensor, place):
    metrics = sensor.metrics
    before = [float("-inf")] * len(metrics)
    for _ in range(5):
        for part in place[2]:
            part(time.time())
        values = [float(v) for v in sensor.read()]
        assert len(values) == len(metrics)
        for metric, old, new in zip(metrics, before, values, strict=True):
            assert metric.kind != "counter" or not new < old, metric
        before = [old if new != new else new for old, new in zip(before, values, strict=True)]
    assert max(before, default=0) > float("-inf"), "something has a value"
    assert sensor.metrics == metrics


def test_a_name_is_used_once_per_device(sensor):
    keys = [(m.name, m.device and (m.device.cls, m.device.id)) for m in sensor.metrics]
    assert len(set(keys)) == len(keys) > 0


def test_the_announcement_survives_json(sensor):
    schema = Schema(10**9, sensor.metrics)
    assert Schema.from_json(schema.to_json()) == schema
    assert {m.kind for m in sensor.metrics} <= {"counter", "gauge", "time"}
    assert all(m.resolution > 0 and m.description and not m.description.endswith(".") for m in sensor.metrics)


def test_every_sensor_is_opened_somewhere():
    assert {*PLAIN, *(name for names in NODES.values() for name in names)} == set(SENSORS)


def test_it_calls_itself_by_its_key(sensor):
    assert sensor.name in SENSORS


def test_closing_twice_is_safe(sensor):
    sensor.read()
    sensor.close()
    sensor.close()


def test_no_descriptor_is_left_open(place):
    name, where, _, _ = place

    def cycle():
        for sensor in open_all(where, table={name: SENSORS[name]})[0]:
            sensor.read()
            sensor.close()
        gc.collect()

    cycle()  # what a vendor's library opens once for the whole process is not a leak
    before = len(os.listdir("/proc/self/fd"))
    cycle()
    assert len(os.listdir("/proc/self/fd")) == before
