"""``python -m bench``; started by scripts/bench, in an environment of its own."""

import argparse

from bench import cost


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["cost"], default="cost")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    for row in cost.measure(rounds=arguments.rounds).values():
        spread, ratio = row["cost"], row["ratio"]
        print(
            f"{row['title']:32} {spread['median']:7.1f} us a connection  x {ratio['median']:.3f} "
            f"({ratio['low']:.3f} to {ratio['high']:.3f})  {row['rate']['median']:8.0f}/s  {row['errors']} errors"
        )


if __name__ == "__main__":
    main()
