"""The points ledger: double entry in integers, holds that resolve once, and proof afterwards."""
