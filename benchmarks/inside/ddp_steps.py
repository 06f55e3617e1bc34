"""A DDP training (gloo) that logs its loss at each step; rank 0 prints the seconds of a step, without the first ten."""

import os
import subprocess
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import yprov

hosts = subprocess.run(["scontrol", "show", "hostnames"], capture_output=True, text=True, check=True).stdout.split()
os.environ["MASTER_ADDR"] = hosts[0]
os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_STEP_ID"]) * 7 % 9000)
rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=size)
torch.manual_seed(0)
network = DistributedDataParallel(torch.nn.Sequential(
    torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1)))
optimizer = torch.optim.SGD(network.parameters(), 1e-3)
x = torch.randn(256, 256)
y = x.sum(1, keepdim=True)
began = 0.0
steps = int(os.environ["STEPS"])
with yprov.context("training"):
    for step in range(steps + 10):
        if step == 10:
            began = time.perf_counter()
        loss = ((network(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yprov.log_metric("loss", loss.item(), step=step)
if rank == 0:
    print(f"step {(time.perf_counter() - began) / steps:.6f}", flush=True)
dist.destroy_process_group()
