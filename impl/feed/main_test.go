package feed_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMain(m *testing.M) {
	// Most tests here wait for most of their time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "every feed has stopped by now, and yet:", err)
		code = 1
	}
	os.Exit(code)
}
