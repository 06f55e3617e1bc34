"""Train a small network on real handwritten digits with PyTorch DDP, on any number of nodes.

    yprov run -- srun --ntasks-per-node=8 python examples/ddp.py
    yprov run -- torchrun --nproc-per-node=2 examples/ddp.py

Each rank trains on its share of the data and logs its own loss; rank 0 also logs the parameters, the validation and the
model. Needs torch and scikit-learn, whose 1,797 images of 8 x 8 pixels are the data.
"""

import argparse
import os
import subprocess
from pathlib import Path

import sklearn.datasets
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import yprov

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=16, help="of one rank")
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--model", type=Path, default=Path("ddp-model.pt"))
args = parser.parse_args()

# Under srun each task finds its place in Slurm's variables; torchrun has set PyTorch's own.
if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
    hosts = subprocess.run(["scontrol", "show", "hostnames"], capture_output=True, text=True, check=True).stdout.split()
    os.environ.update(RANK=os.environ["SLURM_PROCID"], WORLD_SIZE=os.environ["SLURM_NTASKS"],
                      LOCAL_RANK=os.environ["SLURM_LOCALID"])
    os.environ.setdefault("MASTER_ADDR", hosts[0])
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ["SLURM_JOB_ID"]) % 10000))
gpu = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count() if gpu else 0) \
    if gpu else torch.device("cpu")
dist.init_process_group("nccl" if gpu else "gloo")
rank, world_size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)

if rank == 0:
    yprov.log_params({**vars(args), "world_size": world_size, "device": device.type})
    yprov.log_dataset("digits", Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz")
images, digits = sklearn.datasets.load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(digits))
train, test = torch.utils.data.random_split(data, [1400, 397], torch.Generator().manual_seed(0))
share = DistributedSampler(train, seed=0)
loader = DataLoader(train, batch_size=args.batch_size, sampler=share)

network = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device))
optimizer = torch.optim.SGD(network.parameters(), lr=args.lr, momentum=0.9)
loss_of = nn.CrossEntropyLoss()

step = 0
for k in range(args.epochs):
    share.set_epoch(k)
    with yprov.context("training"), yprov.epoch(k):
        for x, y in loader:
            loss = loss_of(network(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            yprov.log_metric("loss", loss.item(), step=step)
    if rank == 0:
        with yprov.context("validation"), yprov.epoch(k), torch.no_grad():
            x, y = (t.to(device) for t in test[:])
            guess = network.module(x)
            accuracy = (guess.argmax(1) == y).float().mean().item()
            yprov.log_metrics({"loss": loss_of(guess, y).item(), "accuracy": accuracy}, step=step)
            print(f"epoch {k + 1}: loss {loss.item():.4f}, accuracy {accuracy:.3f}", flush=True)
    dist.barrier()

if rank == 0:
    torch.save(network.module.state_dict(), args.model)
    yprov.log_model("digits", args.model)
dist.destroy_process_group()
