"""What the sampler relies on, of every sensor in the table, on this machine and on the plain host."""

import gc
import os

import pytest

from yprovd.model import Schema
from yprovd.sensors import SENSORS, Surroundings, open_all


@pytest.fixture(params=["machine", "plain host"])
def where(request, host):
    if request.param == "machine":
        return Surroundings("/", "contract-test", dict(os.environ))
    return host.where(SLURM_JOB_ID="4242")


@pytest.fixture(params=SENSORS)
def sensor(request, where, opened):
    sensors, absences = open_all(where, table={request.param: SENSORS[request.param]})
    for absence in absences:
        assert absence.reason
        pytest.skip(absence.reason)
    return opened(sensors[0])


def test_one_value_per_metric_and_counters_never_decrease(sensor):
    metrics = sensor.metrics
    before = [float("-inf")] * len(metrics)
    for _ in range(5):
        values = [float(v) for v in sensor.read()]
        assert len(values) == len(metrics)
        for metric, old, new in zip(metrics, before, values, strict=True):
            assert metric.kind != "counter" or not new < old, metric
        before = [old if new != new else new for old, new in zip(before, values, strict=True)]
    assert sensor.metrics == metrics


def test_a_name_is_used_once_per_device(sensor):
    keys = [(m.name, m.device and (m.device.cls, m.device.id)) for m in sensor.metrics]
    assert len(set(keys)) == len(keys) > 0


def test_the_announcement_survives_json(sensor):
    schema = Schema(10**9, sensor.metrics)
    assert Schema.from_json(schema.to_json()) == schema
    assert {m.kind for m in sensor.metrics} <= {"counter", "gauge", "time"}
    assert all(m.resolution > 0 and m.description and not m.description.endswith(".") for m in sensor.metrics)


def test_it_calls_itself_by_its_key(sensor):
    assert sensor.name in SENSORS


def test_closing_twice_is_safe(sensor):
    sensor.read()
    sensor.close()
    sensor.close()


@pytest.mark.parametrize("name", SENSORS)
def test_no_descriptor_is_left_open(name, where):
    def cycle():
        for sensor in open_all(where, table={name: SENSORS[name]})[0]:
            sensor.read()
            sensor.close()
        gc.collect()

    cycle()  # what a vendor's library opens once for the whole process is not a leak
    before = len(os.listdir("/proc/self/fd"))
    cycle()
    assert len(os.listdir("/proc/self/fd")) == before
