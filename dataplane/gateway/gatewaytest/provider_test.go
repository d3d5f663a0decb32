package gatewaytest_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// recordingT is a testing.TB that records a failure instead of ending the test.
type recordingT struct {
	testing.TB

	failed bool
}

func (f *recordingT) Helper()               {}
func (f *recordingT) Errorf(string, ...any) { f.failed = true }
func (f *recordingT) FailNow()              {}

// The secrecy tests of the gateway rest on RequireNeverSaw, so it must be able to fail.
func TestRequireNeverSawFails(t *testing.T) {
	const secret = "gatewaytest-secret-0001"
	provider := gatewaytest.StartProvider(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, provider.URL+"/v1/chat/completions?q=1", http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+secret)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	for _, text := range []string{secret, "q=1", "chat/completions", "Authorization"} {
		recorder := &recordingT{TB: t}
		provider.RequireNeverSaw(recorder, text)
		require.True(t, recorder.failed, text)
	}
	provider.RequireNeverSaw(t, "another secret")
}
