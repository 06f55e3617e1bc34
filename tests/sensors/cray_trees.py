"""`pm_counters` of a real node with four accelerators: values, stamps and the distances between them."""

from __future__ import annotations

PM = "sys/cray/pm_counters"
#: Of the power of the node; the others are before and after it, as they were in the dump.
STAMP = 1784929200356706
NODE = {
    "power": f"495 W {STAMP} us", "energy": f"4709337659 J {STAMP - 76296} us", "power_cap": "0 W",
    "cpu_power": f"35 W {STAMP + 30245} us", "cpu_energy": f"278012345 J {STAMP + 30245} us",
    "memory_power": f"76 W {STAMP + 116318} us", "memory_energy": f"593012345 J {STAMP + 116318} us",
    "cpu0_temp": f"44 C {STAMP + 30245} us",
    "freshness": "47760686", "generation": "4", "startup": "1780055122858757", "raw_scan_hz": "10", "version": "3",
} | {f"accel{i}_power": f"{92 + i} W {STAMP + 4995} us" for i in range(4)} \
  | {f"accel{i}_energy": f"{860000000 + i} J {STAMP + 4995} us" for i in range(4)} \
  | {f"accel{i}_power_cap": "0 W" for i in range(4)}


class Clocks:
    """Both clocks; the node was up for `up` seconds at the stamp."""

    def __init__(self, up=5000.0):
        self.mono, self.wall = round(up * 1e9) + 10**8, STAMP * 1000 + 10**8

    def forward(self, seconds):
        self.mono += round(seconds * 1e9)
        self.wall += round(seconds * 1e9)

    def wall_ns(self):
        return self.wall

    def mono_ns(self):
        return self.mono


class Controller:
    """A node controller: the files of a host, and the scans that renew them."""

    def __init__(self, host, files=NODE):
        self.host = host
        self.files = dict(files)
        self.put(**files)

    def put(self, **files):
        self.files |= files
        for name, text in files.items():
            self.host.write(f"{PM}/{name}", text + "\n")

    def scan(self, clocks, seconds=1.0, *, fresh=True, stamps=True):
        """Time goes on; what is scanned has new stamps."""
        clocks.forward(seconds)
        us = round(seconds * 1e6)
        moved = {n: " ".join((*w[:2], str(int(w[2]) + us), "us")) for n, t in self.files.items()
                 if len(w := t.split()) == 4 and stamps}
        if fresh:
            moved["freshness"] = str(int(self.files["freshness"]) + 10)
        self.put(**moved)
