package docker

// For tests of what the kernel's tables say.
var (
	ParseRoutes  = parseRoutes
	ParseSockets = parseSockets
)
