package dataplanetest

import (
	"encoding/json"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/secret"
)

func (cp *ControlPlane) fetch(w http.ResponseWriter, r *http.Request) {
	var request gen.FetchRequest
	if !decode(w, r, &request) {
		return
	}
	cp.mu.Lock()
	before, after, delay := cp.before, cp.after, cp.delay
	cp.mu.Unlock()
	if !cp.keep(r.Context(), before) {
		return
	}
	cp.mu.Lock()
	answer, denied := cp.answer(&request)
	cp.mu.Unlock()
	if !cp.keep(r.Context(), after) {
		return
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	if denied != nil {
		refuse(w, denied.status, denied.problem, denied.code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// denial is a refusal with the fields of its problem document.
type denial struct {
	status        int
	problem, code string
}

// answer returns the answer to a request. The caller holds mu.
func (cp *ControlPlane) answer(request *gen.FetchRequest) (*gen.FetchResponse, *denial) {
	q := whose{text(request.CustomerID), text(request.ProjectID), text(request.UserID), text(request.Provider)}
	var caller *gen.Caller
	switch {
	case request.KeyID != nil:
		if q != (whose{}) || request.Credential != nil {
			return nil, invalid()
		}
		return cp.byID(*request.KeyID)
	case request.Credential != nil:
		var denied *denial
		if caller, denied = cp.authenticate(request.Credential.Reveal(), &q); denied != nil {
			return nil, denied
		}
	case q.user != "":
		caller = &gen.Caller{UserID: q.user}
	}
	if q.customer == "" || q.project == "" || q.provider == "" {
		return nil, invalid()
	}
	if denied := cp.admits(q.customer, q.project, q.user); denied != nil {
		return nil, denied
	}
	k, reason := cp.choose(q.customer, q.project, q.user, q.provider)
	if k == nil {
		return nil, &denial{http.StatusNotFound, reason, "not_found"}
	}
	return cp.response(k, reason, caller), nil
}

// whose names the user and the provider that a request is for.
type whose struct{ customer, project, user, provider string }

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// authenticate returns the caller with a credential, and completes q.
func (cp *ControlPlane) authenticate(credential string, q *whose) (*gen.Caller, *denial) {
	if q.customer != "" || q.user != "" {
		return nil, invalid()
	}
	held := cp.tokens[credential]
	if held == nil || held.revoked || held.until != 0 && cp.now() >= held.until {
		return nil, &denial{http.StatusUnprocessableEntity, "caller-unauthenticated", "unauthenticated"}
	}
	q.customer, q.user = held.CustomerID, held.UserID
	orElse(&q.project, held.ProjectID)
	caller := &gen.Caller{UserID: held.UserID, TokenID: optional(held.id)}
	if held.until != 0 {
		ms := (held.until - cp.now()).Milliseconds()
		caller.ValidMs = &ms
	}
	return caller, nil
}

func invalid() *denial { return &denial{http.StatusBadRequest, "invalid-argument", "invalid_argument"} }

func (cp *ControlPlane) byID(id string) (*gen.FetchResponse, *denial) {
	k := cp.key(id)
	if k == nil {
		return nil, &denial{http.StatusNotFound, "no-key", "not_found"}
	}
	if denied := cp.admits(k.CustomerID, k.ProjectID, ""); denied != nil {
		return nil, denied
	}
	if k.revoked {
		return nil, &denial{http.StatusForbidden, "key-revoked", "permission_denied"}
	}
	return cp.response(k, "by_id", nil), nil
}

func (cp *ControlPlane) admits(customer, project, user string) *denial {
	if cp.customers != nil && !cp.customers[customer] {
		return &denial{http.StatusForbidden, "customer-not-served", "permission_denied"}
	}
	if user != "" && !cp.members[[3]string{customer, project, user}] {
		return &denial{http.StatusForbidden, "permission-denied", "permission_denied"}
	}
	return nil
}

func (cp *ControlPlane) response(k *heldKey, reason string, caller *gen.Caller) *gen.FetchResponse {
	scope := "project"
	if k.UserID != "" {
		scope = "user"
	}
	return &gen.FetchResponse{
		KeyID: k.id, Version: 1, CustomerID: k.CustomerID, ProjectID: k.ProjectID, Provider: k.Provider,
		Scope: scope, Reason: reason, Secret: secret.New(k.Secret), BaseURL: k.BaseURL, AuthStyle: k.AuthStyle,
		AsOf: cp.position(), Caller: caller,
	}
}
