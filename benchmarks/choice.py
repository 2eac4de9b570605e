"""Force error after training on n frames that were chosen by each method, against random draws, on real data.

    python benchmarks/choice.py [--set si64 mixed] [--counts 5 10 20] [--seeds 3] [--epochs 10]

``si64``: Si64, 168 frames to choose from and 42 to test on, both from one MD run: all frames are alike.
``mixed``: Cu72, 80 frames at 300 K and 8 at 500 K to choose from, as an exploration finds few strange frames among many
usual ones; tested on 20 other frames at 300 K and on 50 other frames at 500 K.

Chosen without known data, on SOAP. The seeds start the networks and make the random draws; the methods draw nothing.
"""

import argparse
import time

import numpy as np
from data_sets import NETWORKS, SETS, add_folder, machine, read, shares, train_settings

METHODS = ("random", "direct", "fps", "entropy")


def pool_and_tests(name, folder):
    """(elements, frames to choose from, name of a test → its frames)."""
    if name == "si64":
        pool, test = shares(read("si64", folder), 0.8, 0.2)
        return SETS["si64"].elements, pool, {"test": test}
    cold, cold_test = shares(read("cu", folder), 0.8, 0.2)
    hot, hot_test, _ = shares(read("cu-hot", folder), 0.08, 0.5, 0.42)
    return SETS["cu"].elements, cold + hot, {"300 K": cold_test, "500 K": hot_test}


def force_rmse(settings, frames, tests):
    """Force RMSE in eV/Å on every test after one training."""
    from epochs import Training

    from pwact_like.potentials.evaluation import errors_of

    training = Training(settings, frames)
    for _ in training.epochs():
        pass
    return [float(errors_of(training.model, training.prepared(test)).rmse()[1] or np.nan) for test in tests.values()]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folder(parser)
    parser.add_argument("--set", nargs="+", choices=("si64", "mixed"), default=["si64", "mixed"])
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 10, 20])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    import torch

    from pwact_like.engines.choosers.choose_run import choose_frames

    torch.set_num_threads(1)
    print(machine())
    for name in args.set:
        elements, pool, tests = pool_and_tests(name, args.data_folder)
        print(
            f"{name}: {len(pool)} frames to choose from; force RMSE in eV/Å, mean and range over {args.seeds} seeds; epochs {args.epochs}"
        )
        for count in args.counts:
            for method in args.methods:
                began = time.perf_counter()
                chosen = None if method == "random" else choose_frames(method, pool, count)
                took = time.perf_counter() - began
                results = []
                for seed in range(args.seeds):
                    drawn = np.random.default_rng(seed).choice(len(pool), size=count, replace=False)
                    places = sorted(drawn if chosen is None else chosen)
                    settings = train_settings(elements, NETWORKS["small"], {"name": "LKF", "epochs": args.epochs}, seed)
                    results.append(force_rmse(settings, [pool[place] for place in places], tests))
                cells = [
                    f"{test} {np.mean(column):.4f} ({min(column):.4f} to {max(column):.4f})"
                    for test, column in zip(tests, zip(*results, strict=True), strict=True)
                ]
                hot = "" if name == "si64" or chosen is None else f"; {sum(place >= 80 for place in chosen)} of 500 K"
                print(f"  n {count:3d}  {method:8s} {'; '.join(cells)}{hot}; chosen in {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
