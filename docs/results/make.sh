#!/usr/bin/env bash
# README's run again, into docs/results/desk: sh docs/results/make.sh [PYTHON]
set -eu
cd "$(dirname "$0")/../.."
python=${1:-python}
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
"$python" experiments/run.py --config=configs/osworld.py --config.seed=0 \
  --config.trackers='()' --workdir="$run"
"$python" experiments/evaluate.py --workdir="$run" --split=held_out
mkdir -p docs/results/desk
(cd "$run" && cp config.json metrics.jsonl success_rates.npy ./*evaluation*.json \
  report/*.png "$OLDPWD/docs/results/desk")
