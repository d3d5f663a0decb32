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

// converseEvents are the events of Bedrock's ConverseStream for the same message, each with its type.
var converseEvents = [][2]string{
	{"messageStart", `{"role":"assistant"}`},
	{"contentBlockDelta", `{"contentBlockIndex":0,"delta":{"text":"Hel"}}`},
	{"contentBlockDelta", `{"contentBlockIndex":0,"delta":{"text":"lo"}}`},
	{"contentBlockStop", `{"contentBlockIndex":0}`},
	{"messageStop", `{"stopReason":"end_turn"}`},
	{"metadata", `{"usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3},"metrics":{"latencyMs":1}}`},
}

// Messages that say "Hello", whole.
const (
	openAIAnswer = `{"id":"c1","object":"chat.completion","created":1,"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},
		"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hello"}}]}`
	anthropicAnswer = `{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}],
		"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`
)

// asksForStream reports whether the body of a request asks for a stream.
func asksForStream(body []byte) bool {
	return bytes.Contains(body, []byte(`"stream":true`)) || bytes.Contains(body, []byte(`"stream": true`))
}

// awsEvent returns an event of a type in AWS's encoding (smithy.io/2.0/aws/amazon-eventstream.html): prelude, headers, payload and
// checksums.
func awsEvent(kind string, payload []byte) []byte {
	var headers []byte
	for _, header := range [][2]string{{":message-type", "event"}, {":event-type", kind}, {":content-type", "application/json"}} {
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

// azureKey is a key of Azure's.
const azureKey = "EXAMPLEEXAMPLEAZUREKEYEXAMPLE"

// isCloudAuthorized reports whether a request has the one credential that the cloud of its path takes.
func isCloudAuthorized(r *http.Request) bool {
	token, key, anthropicKey := r.Header.Get("Authorization"), r.Header.Get("Api-Key"), r.Header.Get("X-Api-Key")
	switch {
	case strings.HasPrefix(r.URL.Path, "/anthropic/"):
		return anthropicKey == azureKey && token+key == ""
	case strings.HasPrefix(r.URL.Path, "/openai/"):
		return key == azureKey && token+anthropicKey == ""
	case strings.Contains(r.URL.Path, "/projects/example-project/locations/europe-west1/publishers/"):
		return strings.HasPrefix(token, "Bearer eyJ") && key+anthropicKey == ""
	}
	return strings.HasPrefix(token, "Bearer bedrock-api-key-") && key+anthropicKey == ""
}

// answerAsCloud answers as Bedrock, Vertex AI and Azure do, or with 401 to a request without the right credential.
func answerAsCloud(w http.ResponseWriter, r *http.Request, body []byte) {
	if !isCloudAuthorized(r) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	isStream := asksForStream(body)
	switch {
	case strings.HasSuffix(r.URL.Path, "/chat/completions") && isStream:
		w.Header().Set("Content-Type", "text/event-stream")
		for _, text := range []string{"Hel", "lo"} {
			_, _ = fmt.Fprintf(w, "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", text)
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	case strings.HasSuffix(r.URL.Path, "/chat/completions"):
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, openAIAnswer)
	case strings.HasSuffix(r.URL.Path, ":generateContent"):
		_, _ = io.WriteString(w, `{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello"}]}}]}`)
	case strings.HasSuffix(r.URL.Path, ":streamGenerateContent"):
		w.Header().Set("Content-Type", "text/event-stream")
		for _, text := range []string{"Hel", "lo"} {
			_, _ = fmt.Fprintf(w, "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":%q}]}}]}\r\n\r\n", text)
		}
	case strings.HasSuffix(r.URL.Path, "/converse"):
		_, _ = io.WriteString(w, `{"output":{"message":{"role":"assistant","content":[{"text":"Hello"}]}},"stopReason":"end_turn",
			"usage":{"inputTokens":1,"outputTokens":1,"totalTokens":2},"metrics":{"latencyMs":1}}`)
	case strings.HasSuffix(r.URL.Path, "/converse-stream"):
		w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
		for _, event := range converseEvents {
			_, _ = w.Write(awsEvent(event[0], []byte(event[1])))
		}
	case strings.HasSuffix(r.URL.Path, "/invoke-with-response-stream"):
		w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
		for _, event := range cloudEvents {
			_, _ = w.Write(awsEvent("chunk", fmt.Appendf(nil, `{"bytes":%q}`, base64.StdEncoding.EncodeToString([]byte(event)))))
		}
	case strings.HasSuffix(r.URL.Path, ":streamRawPredict"), strings.HasPrefix(r.URL.Path, "/anthropic/") && isStream:
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range cloudEvents {
			var named struct{ Type string }
			_ = json.Unmarshal([]byte(event), &named) // it is ours
			_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", named.Type, event)
		}
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, anthropicAnswer)
	}
}

// The clouds' own SDKs are served with tokens that the control plane signs, or with Azure's key, and the provider sees neither the caller's credential nor the
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
		"vertex":          robot,
		"vertexanthropic": robot,
		"azure_openai":    {"endpoint": "https://my-resource.services.ai.azure.com/", "api_key": azureKey},
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
		answerAsCloud(w, r, body)
	}))
	t.Cleanup(cloud.Close)
	edge := c.run("admin dataplane create --customer acme --name edge")
	gateway := startProcess(t, os.Args[0], gatewayEnviron(t, replica.address.Dataplane, edge),
		"--upstream", "bedrock="+cloud.URL, "--upstream", "vertexanthropic="+cloud.URL+"/v1", "--upstream", "vertex="+cloud.URL+"/v1",
		"--upstream", "azure_openai="+cloud.URL).awaitReady()
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(t, err)
	both := []string{
		"bedrock", "bedrock streamed", "bedrock signed", "bedrock signed streamed", "vertex", "vertex streamed", "azure deployment",
		"azure deployment streamed", "azure v1", "azure v1 streamed", "foundry", "foundry streamed",
	}
	for client, names := range map[string][]string{
		filepath.Join(folder, ".venv", "bin", "python") + " -B cloud_clients.py": append([]string{"boto3", "boto3 streamed", "boto3 profile", "boto3 profile streamed"}, both...),
		"node cloud_clients.mjs": append([]string{"genai", "genai streamed"}, both...),
	} {
		t.Run(client[strings.LastIndexByte(client, ' ')+1:], func(t *testing.T) {
			t.Parallel()
			words := strings.Fields(client)
			cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
			cmd.Dir = folder
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "AWS_EC2_METADATA_DISABLED=true",
				"GATEWAY_URL=" + gateway.address.Gateway, "AGENTROUTER_API_KEY=" + c.alice,
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			printed, err := cmd.Output()
			require.NoError(t, err, "`make test` installs the SDKs: %s", &stderr)
			texts, want := map[string]string{}, map[string]string{}
			require.NoError(t, json.Unmarshal(printed, &texts))
			for _, name := range names {
				want[name] = "Hello"
			}
			require.Equal(t, want, texts)
			require.Empty(t, leaked)
		})
	}
}
