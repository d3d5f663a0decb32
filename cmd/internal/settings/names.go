package settings

import (
	"regexp"
	"slices"
	"strings"
)

// serviceLink matches, behind our prefix, what Kubernetes puts into the environment of every pod when a Service has our
// name (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables): aikeys, for AIKEYS_. They
// are not settings. Those of a Service with a longer name can't be told from settings that are mistyped, unless that is
// another program's.
var serviceLink = regexp.MustCompile(`^(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// ours tells whether a variable is a setting of ours, or means to be.
func (n Names) ours(variable string) bool {
	rest, ok := strings.CutPrefix(variable, n.Prefix)
	isOther := func(prefix string) bool { return strings.HasPrefix(variable, prefix) }
	return ok && !serviceLink.MatchString(rest) && !slices.ContainsFunc(n.Others, isOther)
}
