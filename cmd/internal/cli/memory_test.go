package cli

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func cgroup(path, limit string) fstest.MapFS {
	return fstest.MapFS{
		"proc/self/cgroup":                     {Data: []byte("0::/" + path + "\n")},
		"sys/fs/cgroup/" + path + "memory.max": {Data: []byte(limit + "\n")},
	}
}

func TestAContainersLimitIsFound(t *testing.T) {
	cases := map[string]struct {
		root  fstest.MapFS
		limit int64
	}{
		"in a container":      {cgroup("", "134217728"), 128 << 20},
		"in a systemd unit":   {cgroup("system.slice/aikeysd.service/", "268435456"), 256 << 20},
		"none set":            {cgroup("", "max"), 0},
		"on another system":   {fstest.MapFS{}, 0},
		"control groups v1":   {fstest.MapFS{"proc/self/cgroup": {Data: []byte("12:memory:/a\n0::/a\n")}}, 0},
		"what is no number":   {cgroup("", "lots"), 0},
		"without that reader": {fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			limit, ok := containerLimit(tc.root)
			require.Equal(t, tc.limit > 0, ok)
			if ok {
				require.Equal(t, tc.limit, limit)
			}
		})
	}
}

func TestTheOperatorsOwnMemorySettingsStand(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	const gcPercent = 400
	container := cgroup("", "1000000000")
	env := map[string]string{"GOGC": "50", "GOMEMLIMIT": "1GiB"}

	TuneMemory(gcPercent, container, func(name string) string { return env[name] })
	require.Equal(t, 50, debug.SetGCPercent(50))
	require.EqualValues(t, math.MaxInt64, debug.SetMemoryLimit(-1))

	TuneMemory(gcPercent, container, func(string) string { return "" })
	require.Equal(t, gcPercent, debug.SetGCPercent(50))
	require.EqualValues(t, 900_000_000, debug.SetMemoryLimit(-1))
}
