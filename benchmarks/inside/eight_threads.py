"""Logs from eight threads at a given rate: `eight_threads.py RATE SECONDS FOLDER`; events a second of all threads.

Each thread writes down in FOLDER/<thread>, a memory-mapped file that survives SIGKILL, how many events it had logged
and when: pairs of int64 (monotonic ns, count), one after each batch of a few ms. The step of an event is its number.
FOLDER/pid appears when all threads are about to begin.
"""

import mmap
import os
import struct
import sys
import threading
import time
from pathlib import Path

import yprov

THREADS = 8
PAIR = struct.Struct("<qq")
PERIOD_S = 0.004


def log(thread, rate, seconds, folder, gate):
    pairs = int(seconds / PERIOD_S) + 16
    with open(folder / str(thread), "w+b") as file:
        file.truncate(pairs * PAIR.size)
        written = mmap.mmap(file.fileno(), 0)
    name = f"thread{thread}"
    gate.wait()
    start = time.monotonic()
    n = at = 0
    while True:
        elapsed = time.monotonic() - start
        due = int(min(elapsed, seconds) * rate)
        while n < due:
            yprov.log_metric(name, 1.0 / (n + 1), n)
            n += 1
        if at < pairs:
            PAIR.pack_into(written, at * PAIR.size, time.monotonic_ns(), n)
            at += 1
        if elapsed >= seconds:
            return
        time.sleep(PERIOD_S)


def main(rate, seconds, folder):
    gate = threading.Barrier(THREADS + 1)
    threads = [threading.Thread(target=log, args=(i, rate / THREADS, seconds, folder, gate)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    (folder / "pid.tmp").write_text(str(os.getpid()))
    os.rename(folder / "pid.tmp", folder / "pid")
    gate.wait()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
