package docker

// helperLabel marks what this program made for its own use.
const helperLabel = "io.github.hakobune-dr.helper"
