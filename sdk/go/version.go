package agentrouter

import "runtime"

// Version is the SDK's version.
const Version = "0.1.1"

func defaultUserAgent() string { return "agentrouter-go/" + Version + " (" + runtime.Version() + ")" }
