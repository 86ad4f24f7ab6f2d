# Downloads the model repository MODELS_SOURCE to MODELS_FOLDER/published, whole or not at all. The
# pod's init container runs it, and until it ends well the server does not start.
set -eu

incoming="$MODELS_FOLDER/.incoming"
published="$MODELS_FOLDER/published"

# The volume lives as long as the pod: a node that comes back starts it again with what was verified,
# also while the store is away.
if [ -e "$published" ]; then
  echo "download.sh: the models of $MODELS_SOURCE are there already" >&2
  exit 0
fi

# The remote is described by variables alone.
export RCLONE_CONFIG=""

# Each file is compared by size and checksum once it is written, and fetched again if they differ.
# After a download that was cut off only what is missing is fetched.
mkdir -p "$incoming"
rclone sync --checksum "$MODELS_SOURCE" "$incoming"

if [ -z "$(find "$incoming" -type f | head -n 1)" ]; then
  echo "download.sh: expected a model repository at $MODELS_SOURCE, got no object" >&2
  exit 1
fi

# Once more against the store, so that what was changed there meanwhile is not taken by halves.
rclone check --one-way "$MODELS_SOURCE" "$incoming"

# The publisher's own sums are the only ones that cover the way into the store.
if [ -e "$incoming/SHA256SUMS" ]; then
  (cd "$incoming" && sha256sum -c SHA256SUMS)
fi

sync
mv "$incoming" "$published"
