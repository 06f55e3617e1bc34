"""Train a small network on real handwritten digits, and say so as it happens.

    yprov run -- python examples/digits.py

Without `yprov run` the same script trains just as well and records nothing. The data are the 1,797 images of 8 x 8
pixels that ship inside scikit-learn (UCI, Optical Recognition of Handwritten Digits).
"""

import argparse
import pickle
from pathlib import Path

import sklearn.datasets
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import yprov

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--hidden", type=int, default=384)
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--model", type=Path, default=Path("digits-model.pkl"))
args = parser.parse_args()
yprov.log_params(vars(args))

# The data: its checksum is in the archive, and the model comes from it.
yprov.log_dataset("digits", Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz")
images, digits = sklearn.datasets.load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(images / 16.0, digits, test_size=0.25, random_state=0)

network = MLPClassifier(hidden_layer_sizes=(args.hidden, args.hidden // 2), learning_rate_init=args.lr,
                        batch_size=args.batch_size, random_state=0)
labels = list(range(10))
steps_per_epoch = len(train_x) // args.batch_size

for k in range(args.epochs):
    step = (k + 1) * steps_per_epoch
    with yprov.context("training"), yprov.epoch(k):
        network.partial_fit(train_x, train_y, classes=labels)
        yprov.log_metric("loss", network.loss_, step=step)
    with yprov.context("validation"), yprov.epoch(k):
        guess = network.predict_proba(test_x)
        loss, accuracy = log_loss(test_y, guess, labels=labels), (guess.argmax(axis=1) == test_y).mean()
        yprov.log_metrics({"loss": loss, "accuracy": accuracy}, step=step)
    if k % 10 == 9:
        print(f"epoch {k + 1:3d}: training loss {network.loss_:.4f}, validation loss {loss:.4f}, "
              f"accuracy {accuracy:.3f}", flush=True)

args.model.write_bytes(pickle.dumps(network))
yprov.log_model("digits", args.model)
