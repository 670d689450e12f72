"""All speed benchmarks, one after the other: `python -m bench`, or `make bench`."""

import sys

from bench import backtest, engine, ledger, links, models, pipeline, rules, velocity

if __name__ == "__main__":
    if set(sys.argv[1:]) - {"--quick"}:
        sys.exit("usage: python -m bench [--quick]")
    engine.main()
    pipeline.main()
    ledger.main()
    rules.main()
    backtest.main()
    models.main()
    velocity.main()
    links.main()
