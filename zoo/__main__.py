"""`python -m zoo`: the networks as a table."""

import sys

from irnet_tf.weights import packed_size
import tensorflow as tf
import zoo


def main():
    row = "{:32} {:>5} {:>6} {:>8}  {:>9}  {:>11}  {}".format
    print("Top-1 accuracy in %: the paper's, and ours after the last epoch (and in the best).")
    print(row("network", "W/A", "params", "size", "paper", "ours", "weights, or how to train them"))
    for name in zoo.list_models():
        entry = zoo.info(name)
        bits = "{}/{}".format(
            *(entry.arguments.get(f"{kind}_bits", 1) for kind in ("weight", "activation"))
        )
        model = entry.builder(**entry.arguments)
        paper = "-" if entry.paper is None else f"{100 * entry.paper[0]:.1f}"
        ours, weights = "-", f"python train.py --model={name}"
        if entry.results:
            last, best = (
                100 * entry.results["result"][which]["accuracy"] for which in ("final", "best")
            )
            identity = entry.results["config"]["identity"]
            epochs, data = identity["recipe"]["epochs"], identity["data"]["name"]
            ours = f"{last:.2f} ({best:.2f})"
            weights = f"{entry.weights.file}, {epochs} epochs, {data}"
        size = packed_size(model)
        print(
            row(
                name,
                bits,
                f"{model.count_params() / 1e6:.2f}M",
                f"{size / 1e6:.2f} MB" if size > 1e6 else f"{size / 1e3:.0f} KB",
                paper,
                ours,
                weights,
            ),
            flush=True,
        )
        tf.keras.backend.clear_session()


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"]:
        from zoo import export

        export.main(sys.argv[2:])
    else:
        main()
