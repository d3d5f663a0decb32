package verification

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSomeUsersTestsLeaveRoomForOthers(t *testing.T) {
	v := New(Config{})
	var releases []func()
	admitted := func(user string, times int) (count int) {
		for range times {
			if release, ok := v.admit(user); ok {
				releases = append(releases, release)
				count++
			}
		}
		return count
	}
	require.Equal(t, maxOfUser, admitted("acme/alice", 10))
	require.Equal(t, maxOfUser, admitted("acme/bob", 10))
	for i := range 10 {
		admitted(fmt.Sprint("acme/user-", i), 10)
	}
	require.Equal(t, maxOfCustomer, v.underWay["acme"])
	require.Equal(t, maxOfUser, admitted("globex/gina", 10), "another customer's users are not affected")
	for i := range 100 {
		admitted(fmt.Sprintf("customer-%d/user", i), 10)
	}
	require.Equal(t, maxOfUsers, v.underWay[""])
	require.Equal(t, retesters, admitted("", 10), "refused keys are tested all the same")
	for _, release := range releases {
		release()
	}
	require.Empty(t, v.underWay)
	require.Equal(t, 1, admitted("acme/alice", 1))
}
