#!/usr/bin/env bash
# Generated requests against the description of the API: no 5xx, no answer that is not described.
#   pip install schemathesis
#   benches/serve/schemathesis.sh [MOST CASES PER OPERATION]
# An operation without parameters has few different cases; the summary counts what was sent.
set -euo pipefail
cd "$(dirname "$0")/../.."
cases=${1:-450}
state=$(mktemp -d)
target/release/lumpd run --state-dir "$state/state" --listen 127.0.0.1:0 --set device.kind=cpu --set learn.idle_steps_per_second=0 \
  --set serve.requests_per_second=0 --set log.filter=error > "$state/out" &
daemon=$!
trap 'kill $daemon; wait $daemon || true; rm -rf "$state"' EXIT
until address=$(grep -o 'http://.*' "$state/out"); do sleep 0.2; done
until curl -sf "$address/readyz" > /dev/null; do sleep 0.2; done
for number in 1 2 3 4 5 6; do
  python3 - "$number" <<'PICTURE' | curl -s --data-binary @- -H 'content-type: image/png' "$address/v1/images" > /dev/null
import pathlib, sys
sys.path.insert(0, "benches/serve")
from common import picture
sys.stdout.buffer.write(picture(int(sys.argv[1])))
PICTURE
done
# One worker: two trip over a fault of Hypothesis now and then. It keeps a database of its cases where it runs. A stream of events
# has no end, and is tested elsewhere.
cd "$state"
schemathesis run "$address/openapi.json" --max-examples "$cases" --workers 1 --phases coverage,fuzzing --mode all \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --request-timeout 60 --seed 1 --no-color
kill -0 $daemon
