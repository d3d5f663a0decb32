package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/models"
)

// mockEmptyProject is a project without keys, of which the owner is an owner too.
const mockEmptyProject = "empty"

// mockRequest is one request of those that make the example data.
type mockRequest struct {
	as           string // the user, or devDataPlane
	method, path string // KEY in the path or body is the key that was registered last
	body         string
	status       int
}

// mockData makes a key in each state through the API, the newest last. The document's samples register other names.
func mockData() []mockRequest {
	const keys = "/v1/aikeys"
	register := func(as, body string) mockRequest {
		return mockRequest{as: as, method: http.MethodPost, path: keys, body: body, status: http.StatusCreated}
	}
	change := func(method, path, body string) mockRequest {
		return mockRequest{as: devOwner, method: method, path: path, body: body, status: http.StatusOK}
	}
	return []mockRequest{
		change(http.MethodPut, "/v1/customers/-/projects/-/members/carol", `{"role": "member"}`),
		register(devOwner, `{"provider": "openai", "name": "openai-old", "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock01"}`),
		change(http.MethodDelete, keys+"/KEY?wait=5s", ""),
		register(devOwner, `{"provider": "anthropic", "name": "anthropic-failing", "secret": "sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-mock02"}`),
		{as: devDataPlane, method: http.MethodPost, path: "/v1/reports",
			body:   `{"keys": [{"key_id": "KEY", "failed_ms_ago": 0, "failure_status": 401, "failure_reason": "rejected"}]}`,
			status: http.StatusNoContent},
		register(devOwner, `{"provider": "mistral", "name": "mistral-disabled", "secret": "EXAMPLEEXAMPLEEXAMPLEEXAMPLEmock"}`),
		change(http.MethodPatch, keys+"/KEY", `{"disabled": true}`),
		register(devOwner, `{"provider": "groq", "name": "groq-limited", "secret": "gsk_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEmock04"}`),
		change(http.MethodPatch, keys+"/KEY", `{"limit": {"requests_per_minute": 60}}`),
		register(devMember, `{"provider": "openai", "name": "openai-bob", "user_scope": true, "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock05"}`),
		register(devOwner, `{"provider": "openai", "name": "openai-own", "user_scope": true, "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock06"}`),
		register(devOwner, `{"provider": "openai", "name": "openai-main", "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock07"}`),
		change(http.MethodPost, keys+"/KEY/rotate", `{"secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock08", "activate": "now", "overlap": "168h"}`),
		{as: devMember, method: http.MethodDelete, path: keys + "/KEY", status: http.StatusForbidden},
	}
}

// seedMock makes the example data, unless the project has keys, whatever their state: it is that of the last start then.
func (s *service) seedMock(ctx context.Context, session devSession, tokenFile string) error {
	who := models.Caller{CustomerID: devCustomer, ProjectID: mockEmptyProject, UserID: devOwner}
	if err := s.store.Transact(ctx, func(tx *models.Tx) error { return setMember(tx, newOperator(s.getenv), who, models.RoleOwner) }); err != nil {
		return err
	}
	dataPlane, err := secretfile.Read(tokenFile)
	if err != nil {
		return err
	}
	seed := mockSeed{
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: mockTimeout},
		url:    map[string]string{devOwner: session.baseURL, devMember: session.baseURL, devDataPlane: s.dataplane.URL()},
		token:  map[string]string{devOwner: session.ownerKey, devMember: session.memberKey, devDataPlane: strings.TrimSpace(string(dataPlane))},
	}
	reply, err := seed.send(ctx, mockRequest{as: devOwner, method: http.MethodGet, path: "/v1/aikeys?page_size=1", status: http.StatusOK})
	if err != nil || len(reply.Keys) > 0 {
		return err
	}
	for _, request := range mockData() {
		if reply, err = seed.send(ctx, request); err != nil {
			return err
		}
		if request.status == http.StatusCreated {
			seed.key = reply.Key.ID
		}
	}
	return nil
}

// mockSeed sends the requests that make the example data.
type mockSeed struct {
	url, token map[string]string // by user
	key        string            // the id of the key that was registered last
	client     *http.Client
}

type mockReply struct {
	Key  mockKey   `json:"key"`
	Keys []mockKey `json:"keys"`
}

type mockKey struct {
	ID string `json:"id"`
}

// mockTimeout bounds one of these requests.
const mockTimeout = 10 * time.Second

func (s mockSeed) send(ctx context.Context, request mockRequest) (reply mockReply, err error) {
	fill := func(text string) string { return strings.ReplaceAll(text, "KEY", s.key) }
	r, err := http.NewRequestWithContext(ctx, request.method, s.url[request.as]+fill(request.path), bytes.NewBufferString(fill(request.body)))
	if err != nil {
		return reply, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token[request.as])
	if request.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return reply, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != request.status {
		return reply, fmt.Errorf("example data: %s %s answers %s", request.method, path.Clean(request.path), answer.Status)
	}
	if answer.StatusCode >= http.StatusOK && answer.StatusCode < http.StatusNoContent {
		err = json.NewDecoder(answer.Body).Decode(&reply)
	}
	return reply, err
}
