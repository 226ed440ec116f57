#!/usr/bin/env bash
# The README's figures on MovieLens-1M.  Usage: scripts/movielens.sh FOLDER [OUTPUT]
# FOLDER holds ml1m_ratings.parquet (user, item, pos: the canonical order) and ml1m_users.parquet.
set -euo pipefail
data=${1:?the folder of ml1m_ratings.parquet and ml1m_users.parquet}
out=${2:-runs/movielens}
mkdir -p "$out"
peterrec prepare "$data/ml1m_ratings.parquet" --time pos --users "$data/ml1m_users.parquet" \
    --split leave_one_out --bad-rows drop --output "$out/data"
peterrec pretrain "$out/data" --output "$out/encoder" --set encoder.kind=nextitnet --set training.epochs=20 \
    --set training.learning_rate=2e-3
# README: what to expect
for task in gender age occupation; do
    peterrec compare --task $task --encoder "$out/encoder" --adapters serial,none,full --controls scratch --seeds 3 \
        --learning-rates recipe --set epochs=5 --set warmup=20 --output "$out/compare-$task"
done
# adapters/README.md: every adapter, each with the same search for a learning rate
peterrec compare --task gender --encoder "$out/encoder" --seeds 3 --learning-rates 5e-4,2e-3,8e-3,3.2e-2 \
    --adapters serial,all --controls "" --set epochs=5 --set warmup=20 --output "$out/adapters-gender"
peterrec compare --task age --encoder "$out/encoder" --seeds 3 \
    --adapters full,parallel,serial,parallel_unit,rslora,dora --controls "" \
    --set epochs=5 --set warmup=20 --output "$out/adapters-age"
