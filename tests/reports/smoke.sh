#!/usr/bin/env bash
# usage: smoke.sh CNN_REPORT FOLDER   Runs the program as users do: a report, then what it refuses.
# Writes into FOLDER.XXXXXX, which a failure leaves behind.
set -euo pipefail
program="$1"
folder="$(mktemp -d "$2.XXXXXX")"
export CLASSICNN_PEAKS_CACHE="$folder/peaks.json"

fail() { echo "smoke: $*" >&2; exit 1; }

out="$folder/report"
"$program" --quick --models=mobilenetv1 --batch=2 --threads=1 --out="$out" >"$folder/stdout" ||
  fail "cnn-report exited with $?"
for name in index.html report.md results.json; do
  [[ -s "$out/$name" ]] || fail "$name is missing or empty"
  grep -q "$out/$name" "$folder/stdout" || fail "$name is not named on stdout"
done
grep -q '^| mobilenetv1 ' "$folder/stdout" || fail "no comparison table on stdout"
[[ "$(ls "$out")" == $'index.html\nreport.md\nresults.json' ]] || fail "other files: $(ls "$out")"
if grep -qE "(src|href)=[\"']?(https?:)?//|@import|url\(['\"]?https?:" "$out/index.html"; then
  fail "index.html refers to a resource outside of itself"
fi
grep -q '"schema":"classicnn-results-1"' "$out/results.json" || fail "results.json has no schema"
points="$(grep -o '"limit_bytes":[0-9]*' "$out/results.json" | sort -u | wc -l)"
((points >= 6)) || fail "$points points of time against memory, not one without a limit and five with"
for title in 'Time against memory' 'What bounds a training step'; do
  grep -q "^## $title" "$out/report.md" || fail "no section '$title'"
done
grep -q 'measured peak stayed within every limit' "$out/report.md" || fail "a limit was exceeded"

# Against itself nothing is a regression; a gate that nothing can pass is not possible to state.
"$program" --quick --models=mobilenetv1 --batch=2 --threads=1 --out="$folder/again" \
  --baseline="$out/results.json" --fail_above=400 >/dev/null || fail "a gate of 400% failed"
grep -q 'Changes against the baseline' "$folder/again/report.md" || fail "no changes shown"

# Bytes have no noise: against a baseline that claims a thousand of them the gate closes.
sed -E 's/"peak_bytes":[0-9]+/"peak_bytes":1000/g' "$out/results.json" >"$folder/small.json"
status=0
"$program" --quick --models=mobilenetv1 --batch=2 --threads=1 --out="$folder/gated" \
  --baseline="$folder/small.json" --fail_above=50 >/dev/null 2>"$folder/stderr" || status=$?
[[ "$status" == 1 ]] || fail "a gate that is not met exited with $status, not 1"
grep -q 'mobilenetv1/memory/peak_bytes' "$folder/stderr" || fail "what is worse is not named"
[[ -s "$folder/gated/index.html" ]] || fail "a gate that is not met left no report"

# refuse WHAT_STDERR_NAMES ARGUMENT...
refuse() {
  local named="$1" status=0
  shift
  "$program" "$@" --out="$folder/refused" >/dev/null 2>"$folder/stderr" || status=$?
  [[ "$status" == 2 ]] || fail "'$*' exited with $status, not 2"
  grep -qF -e "$named" "$folder/stderr" || fail "'$*' does not name $named: $(cat "$folder/stderr")"
  (($(wc -l <"$folder/stderr") <= 3)) || fail "'$*' takes more than three lines"
  [[ ! -e "$folder/refused" ]] || fail "'$*' left $(ls -A "$folder/refused")"
}
echo '{}' >"$folder/bad.json"
refuse --batch --batch=0
refuse --models --models=alexnet
refuse --nonsense --nonsense
refuse --fail_above --fail_above=5
refuse --quick --quick --full
refuse "$folder/bad.json" --baseline="$folder/bad.json"
refuse "$folder/none.json" --baseline="$folder/none.json"
refuse "$folder/bad.json" --peer="$folder/bad.json"
refuse "$folder/none" --runs="$folder/none"
for flag in runs peer baseline; do refuse "--$flag is empty" "--$flag="; done
refuse --runs --runs=",$folder/none"
refuse "$out/results.json" --baseline="$out/results.json" --batch=3 --threads=1
refuse --image_size --image_size=0
refuse vgg16 --models=vgg16 --image_size=16
status=0
"$program" --quick --models=mobilenetv1 --out=/proc/nowhere 2>"$folder/stderr" || status=$?
[[ "$status" == 2 ]] || fail "an output folder that cannot be written exited with $status"
grep -q /proc/nowhere "$folder/stderr" || fail "the output folder is not named"
# What cannot be printed is an error, though the files are written.
status=0
"$program" --quick --models=mobilenetv1 --batch=2 --threads=1 --out="$folder/full" >/dev/full \
  2>"$folder/stderr" || status=$?
[[ "$status" == 1 ]] || fail "a full standard output exited with $status, not 1"
grep -q 'standard output' "$folder/stderr" || fail "not said: $(cat "$folder/stderr")"
[[ -s "$folder/full/index.html" ]] || fail "a full standard output lost the report"
rm -rf "$folder"
echo "smoke: fine"
