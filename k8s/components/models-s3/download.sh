# Downloads the model repository MODELS_SOURCE into MODELS_FOLDER/published, whole or not at all.
# The init container of the pod runs it; until it ends well the server does not start.
#
# May be run again at any time (a node that comes back does): what is complete is not fetched twice,
# and what was published stays until its successor is complete.
set -eu

incoming="$MODELS_FOLDER/.incoming"
published="$MODELS_FOLDER/published"

# Without a configuration file: the remote is described by variables.
export RCLONE_CONFIG=""

# Every file is compared by size and checksum after it is written, and fetched again if they differ.
# An object that does not exist any more goes from an incomplete download of before.
rclone sync --checksum --retries 5 --retries-sleep 5s --low-level-retries 10 --transfers 8 \
  --stats 10s --stats-one-line --stats-log-level NOTICE "$MODELS_SOURCE" "$incoming"

if [ -z "$(find "$incoming" -type f | head -n 1)" ]; then
  echo "download.sh: expected a model repository at $MODELS_SOURCE, got no object" >&2
  exit 1
fi

# Against the store once more: what changed there meanwhile would be two halves of different versions.
rclone check --one-way "$MODELS_SOURCE" "$incoming"

# A publisher's own sums are the only ones that cover the way into the store too.
if [ -f "$incoming/SHA256SUMS" ]; then
  (cd "$incoming" && sha256sum -c SHA256SUMS)
fi

sync
rm -rf "$MODELS_FOLDER/.outgoing"
if [ -e "$published" ]; then
  mv "$published" "$MODELS_FOLDER/.outgoing"
fi
mv "$incoming" "$published"
rm -rf "$MODELS_FOLDER/.outgoing"
