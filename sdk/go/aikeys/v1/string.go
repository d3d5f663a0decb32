package aikeysv1

import "encoding/json"

// Values print as JSON, so that optional fields show their values and not their addresses. No type holds a secret.

// String returns the value as JSON, with the API's names.
func (a Actor) String() string { return text(a) }

// String returns the value as JSON, with the API's names.
func (e Event) String() string { return text(e) }

// String returns the value as JSON, with the API's names.
func (k Key) String() string { return text(k) }

// String returns the value as JSON, with the API's names.
func (k KeyFailure) String() string { return text(k) }

// String returns the value as JSON, with the API's names.
func (v Verification) String() string { return text(v) }

// String returns the value as JSON, with the API's names.
func (r Receipt) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (f Fetch) String() string { return text(f) }

// String returns the value as JSON, with the API's names.
func (l ListFetchesResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (u Usage) String() string { return text(u) }

// String returns the value as JSON, with the API's names.
func (l ListUsageResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (m Member) String() string { return text(m) }

// String returns the value as JSON, with the API's names.
func (p Policy) String() string { return text(p) }

// String returns the value as JSON, with the API's names.
func (p ProviderInfo) String() string { return text(p) }

// String returns the value as JSON, with the API's names.
func (r RegisterResponse) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (v VerifyResponse) String() string { return text(v) }

// String returns the value as JSON, with the API's names.
func (g GetResponse) String() string { return text(g) }

// String returns the value as JSON, with the API's names.
func (l ListResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (r RevokeResponse) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (d DisableReceipt) String() string { return text(d) }

// String returns the value as JSON, with the API's names.
func (u UpdateResponse) String() string { return text(u) }

// String returns the value as JSON, with the API's names.
func (r ResolveResponse) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (p PolicyResponse) String() string { return text(p) }

// String returns the value as JSON, with the API's names.
func (l ListEventsResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (m MemberResponse) String() string { return text(m) }

// String returns the value as JSON, with the API's names.
func (r RemoveMemberResponse) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (l ListMembersResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (l ListProvidersResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (w WhoAmIResponse) String() string { return text(w) }

// String returns the value as JSON, with the API's names.
func (t Token) String() string { return text(t) }

// String returns the value as JSON, with the API's names.
func (p Project) String() string { return text(p) }

// String returns the value as JSON, with the API's names.
func (l ListTokensResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (l ListProjectsResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (r RevokeTokenResponse) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (r RestoreMemberResponse) String() string { return text(r) }

// String returns the value as JSON, with the API's names.
func (m MemberImpactResponse) String() string { return text(m) }

// String returns the value as JSON, with the API's names.
func (l LeaksResponse) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (l LeakMatch) String() string { return text(l) }

// String returns the value as JSON, with the API's names.
func (k KeyWarning) String() string { return text(k) }

func text(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		return "{}" // a time that JSON can't hold, set by the caller
	}
	return string(encoded)
}
