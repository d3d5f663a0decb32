package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

// cloudEvents are the events of a streamed message that says "Hello", as Anthropic's models send them in each cloud.
var cloudEvents = []string{
	`{"type":"message_start","message":{"id":"m1","type":"message","role":"assistant","model":"m","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}`,
	`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
	`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}`,
	`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}`,
	`{"type":"content_block_stop","index":0}`,
	`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}`,
	`{"type":"message_stop"}`,
}

// awsEvent returns an event in AWS's encoding (smithy.io/2.0/aws/amazon-eventstream.html): prelude, headers, payload and checksums.
func awsEvent(payload []byte) []byte {
	var headers []byte
	for _, header := range [][2]string{{":message-type", "event"}, {":event-type", "chunk"}, {":content-type", "application/json"}} {
		headers = append(append(headers, byte(len(header[0]))), header[0]...)
		headers = append(headers, 7) // the type of strings
		headers = append(binary.BigEndian.AppendUint16(headers, uint16(len(header[1]))), header[1]...)
	}
	const fixed = 16
	event := binary.BigEndian.AppendUint32(nil, uint32(fixed+len(headers)+len(payload)))
	event = binary.BigEndian.AppendUint32(event, uint32(len(headers)))
	event = binary.BigEndian.AppendUint32(event, crc32.ChecksumIEEE(event))
	event = append(append(event, headers...), payload...)
	return binary.BigEndian.AppendUint32(event, crc32.ChecksumIEEE(event))
}

// answerAsCloud answers as Bedrock and Vertex AI do, or with 401 to a request without a token of the right kind.
func answerAsCloud(w http.ResponseWriter, r *http.Request) {
	token, isGoogle := r.Header.Get("Authorization"), strings.Contains(r.URL.Path, "/locations/europe-west1/publishers/anthropic/")
	kind := "Bearer bedrock-api-key-"
	if isGoogle {
		kind = "Bearer eyJ"
	}
	if !strings.HasPrefix(token, kind) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/converse"):
		_, _ = io.WriteString(w, `{"output":{"message":{"role":"assistant","content":[{"text":"Hello"}]}},"stopReason":"end_turn",
			"usage":{"inputTokens":1,"outputTokens":1,"totalTokens":2},"metrics":{"latencyMs":1}}`)
	case strings.HasSuffix(r.URL.Path, "/invoke-with-response-stream"):
		w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
		for _, event := range cloudEvents {
			_, _ = w.Write(awsEvent(fmt.Appendf(nil, `{"bytes":%q}`, base64.StdEncoding.EncodeToString([]byte(event)))))
		}
	case strings.HasSuffix(r.URL.Path, ":streamRawPredict"):
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range cloudEvents {
			var named struct{ Type string }
			_ = json.Unmarshal([]byte(event), &named) // it is ours
			_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", named.Type, event)
		}
	default:
		_, _ = io.WriteString(w, `{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}],
			"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`)
	}
}

// The clouds' own SDKs are served with tokens that the control plane signs, and the provider sees neither the caller's credential nor the
// cloud's.
func TestCloudSDKs(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	replica := c.start()
	const access = "EXAMPLE/SECRET/ACCESS/KEY/EXAMPLE"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	robot := map[string]string{
		"type": "service_account", "project_id": "example-project", "client_email": "robot@example-project.iam.gserviceaccount.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
	for provider, credential := range map[string]map[string]string{
		"bedrock":         {"access_key_id": "AKIAEXAMPLE", "secret_access_key": access, "region": "us-east-1"},
		"vertexanthropic": robot,
	} {
		document, err := json.Marshal(credential)
		require.NoError(t, err)
		body, err := json.Marshal(map[string]string{"provider": provider, "name": provider, "secret": string(document)})
		require.NoError(t, err)
		c.call(replica, http.MethodPost, "", string(body))
	}
	leaked := make(chan string, 100)
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		for _, secret := range []string{c.alice, access, "PRIVATE"} {
			if seen := fmt.Sprint(r.URL, r.Header, string(body)); err != nil || strings.Contains(seen, secret) {
				leaked <- seen
			}
		}
		answerAsCloud(w, r)
	}))
	t.Cleanup(cloud.Close)
	edge := c.run("admin dataplane create --customer acme --name edge")
	gateway := startProcess(t, os.Args[0], gatewayEnviron(t, replica.address.Dataplane, edge),
		"--upstream", "bedrock="+cloud.URL, "--upstream", "vertexanthropic="+cloud.URL+"/v1").awaitReady()
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), filepath.Join(folder, ".venv", "bin", "python"), "-B", filepath.Join(folder, "cloud_clients.py"))
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "AWS_EC2_METADATA_DISABLED=true",
		"GATEWAY_URL=" + gateway.address.Gateway, "AGENTROUTER_API_KEY=" + c.alice,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	printed, err := cmd.Output()
	require.NoError(t, err, "`make test` installs the SDKs: %s", &stderr)
	texts := map[string]string{}
	require.NoError(t, json.Unmarshal(printed, &texts))
	want := map[string]string{}
	for _, client := range []string{
		"bedrock", "bedrock streamed", "bedrock signed", "bedrock signed streamed", "vertex", "vertex streamed", "boto3", "boto3 profile",
	} {
		want[client] = "Hello"
	}
	require.Equal(t, want, texts)
	require.Empty(t, leaked)
}
