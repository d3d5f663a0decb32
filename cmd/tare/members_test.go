package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRemovingAMemberAsksOnATerminal(t *testing.T) {
	u := alice(t)
	u.runOK("api members set dave --role member")
	code, shown := u.runInTerminal(80, "api members remove dave").expect("[y/N] ").typeKeys("no\n").wait()
	require.Equal(t, exitDeclined, code)
	require.Contains(t, shown, "nothing was done")
	code, _ = u.runInTerminal(80, "api members remove dave --grace-days 0").expect("[y/N] ").typeKeys("yes\n").wait()
	require.Equal(t, exitOK, code)
	require.NotContains(t, u.runOK("api members list"), "dave")
	require.Equal(t, exitNotFound, u.run("api members restore dave").Code)
}
