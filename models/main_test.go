package models_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/models/modelstest"
)

// envChild names what the test binary does in place of tests, as a process of its own that a test may kill.
const envChild = "MODELS_TEST_CHILD"

func TestMain(m *testing.M) {
	if task := os.Getenv(envChild); task != "" {
		os.Exit(runChild(task))
	}
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "every store is closed by now, and yet:", err)
		code = 1
	}
	os.Exit(code)
}
