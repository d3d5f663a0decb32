package dataplane_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMain(m *testing.M) {
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "every service is closed by now, and yet:", err)
		code = 1
	}
	os.Exit(code)
}
