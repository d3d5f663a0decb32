package providers

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/verdict"
)

func TestAnswersOfProvidersAreJudged(t *testing.T) {
	type answer struct {
		provider string
		status   int
		body     string
		want     verdict.Verdict
	}
	answers := []answer{ // as the providers' pages and public reports have them
		{"openai", 401, `{"error": {"message": "Incorrect API key provided: sk-pro***0001.", "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}}`, verdict.Rejected},
		{"openai", 401, `{"error": {"message": "Your IP is not authorized.", "code": "ip_not_authorized"}}`, verdict.Unrelated},
		{"openai", 401, `{"error": {"message": "OpenAI-Organization header should match organization for API key", "code": "mismatched_organization"}}`, verdict.Unrelated},
		{"openai", 401, `{"error": {"message": "No such organization: org-x.", "code": "invalid_organization"}}`, verdict.Unrelated},
		{"openai", 401, `{"error": {"message": "You have insufficient permissions for this operation. Missing scopes: api.responses.write.", "code": null}}`, verdict.Restricted},
		{"openai", 403, `{"error": {"message": "You have insufficient permissions for this operation. Missing scopes: api.model.read.", "code": null}}`, verdict.Restricted},
		{"openai", 403, `{"error": {"code": "unsupported_country_region_territory", "message": "Country, region, or territory not supported"}}`, verdict.Unrelated},
		{"openai", 403, `{"error": {"message": "Project proj_x does not have access to model gpt-x", "code": "model_not_found"}}`, verdict.Unrelated},
		{"openai", 400, `{"error": {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}}`, verdict.QuotaExhausted},
		{"openai", 400, `{"error": {"message": "Unknown model \"insufficient_quota\"", "code": null}}`, verdict.Unknown},
		{"openai", 429, `{"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "credit_balance_exhausted"}}`, verdict.QuotaExhausted},
		{"openai", 429, `{"error": {"message": "You exceeded your current quota", "type": "requests", "code": "insufficient_quota"}}`, verdict.QuotaExhausted},
		{"openai", 429, `{"error": {"message": "Your account is not active", "type": "billing_not_active", "code": "billing_not_active"}}`, verdict.QuotaExhausted},
		{"openai", 429, `{"error": {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}}`, verdict.RateLimited},

		{"anthropic", 401, `{"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}`, verdict.Rejected},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."}}`, verdict.QuotaExhausted},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."}}`, verdict.QuotaExhausted},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "This organization has been disabled."}}`, verdict.Rejected},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "model: This organization has been disabled."}}`, verdict.Unknown},
		{"anthropic", 403, `{"error": {"type": "forbidden", "message": "Request not allowed"}}`, verdict.Unrelated},
		{"anthropic", 403, `{"type": "error", "error": {"type": "permission_error", "message": "…"}}`, verdict.Forbidden},
		{"anthropic", 404, `{"type": "error", "error": {"type": "not_found_error", "message": "model: claude-x"}}`, verdict.Accepted},

		{"gemini", 400, `{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT", "details": [
		{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]}}`, verdict.Rejected},
		{"gemini", 400, `[{"error": {"code": 400, "message": "API key expired.", "details": [{"reason": "API_KEY_INVALID"}]}}]`, verdict.Rejected},
		{"gemini", 400, `{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"API_KEY_INVALID\"", "details": [
		{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "reason", "description": "API_KEY_INVALID"}]}]}}`, verdict.Unknown},
		{"gemini", 403, `{"error": {"code": 403, "message": "Your API key was reported as leaked. Please use another API key.", "status": "PERMISSION_DENIED"}}`, verdict.Leaked},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "API_KEY_SERVICE_BLOCKED"}]}}`, verdict.Rejected},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "CONSUMER_SUSPENDED"}]}}`, verdict.Rejected},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "API_KEY_IP_ADDRESS_BLOCKED"}]}}`, verdict.Unrelated},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "API_KEY_HTTP_REFERRER_BLOCKED"}]}}`, verdict.Unrelated},
		{"gemini", 402, `{"error": {"code": 402, "message": "Your prepayment credits are depleted.", "status": "RESOURCE_EXHAUSTED"}}`, verdict.QuotaExhausted},
		{"gemini", 429, `{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}`, verdict.RateLimited},

		{"bedrock", 403, `{"Message": "Authentication failed: Please make sure your API Key is valid."}`, verdict.Rejected},
		{"bedrock", 403, `{"message": "The security token included in the request is expired"}`, verdict.Rejected},
		{"bedrock", 403, `{"message": "The security token included in the request is invalid."}`, verdict.Rejected},
		{"bedrock", 403, `{"message": "You don't have access to the model with the specified model ID."}`, verdict.Unrelated},
		{"bedrock", 403, `{"Message": "User: arn:aws:iam::123456789012:user/u is not authorized to perform: bedrock:InvokeModel"}`, verdict.Forbidden},

		{"groq", 401, `{"error": {"message": "Invalid API Key", "code": "invalid_api_key"}}`, verdict.Rejected},
		{"groq", 400, `{"error": {"message": "Organization has been restricted.", "code": "organization_restricted"}}`, verdict.Rejected},
		{"groq", 403, `{"error": {"message": "…", "code": "model_permission_blocked_org"}}`, verdict.Unrelated},
		{"groq", 403, `{"error": {"message": "…", "code": "model_permission_blocked_project"}}`, verdict.Unrelated},
		{"groq", 403, `{"error": {"message": "Access denied. Please check your network settings."}}`, verdict.Unrelated},

		{"xai", 400, `{"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***05. You can obtain an API key from https://console.x.ai."}`, verdict.Rejected},
		{"xai", 400, `{"code": "Client specified an invalid argument", "error": "Argument not supported: Incorrect API key provided"}`, verdict.Unknown},
		{"xai", 403, `{"code": "The caller does not have permission", "error": "Your newly created team doesn't have any credits or licenses yet."}`, verdict.QuotaExhausted},
		{"deepinfra", 401, `{"detail": {"error": "User authentication required"}}`, verdict.Rejected},
		{"mistral", 401, `{"detail": "Unauthorized"}`, verdict.Rejected},
		{"cohere", 401, `{"message": "invalid api token"}`, verdict.Rejected},
		{"together", 401, `{"error": {"message": "Invalid API key provided", "code": "invalid_api_key"}}`, verdict.Rejected},
		{"together", 402, `{"error": {"message": "Payment required"}}`, verdict.QuotaExhausted},
		{"fireworks", 401, `{"error": {"message": "The API key you provided is invalid."}}`, verdict.Rejected},
		{"fireworks", 412, `{"error": {"message": "Account acme is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices.", "code": "PRECONDITION_FAILED"}}`, verdict.QuotaExhausted},
		{"fireworks", 412, ``, verdict.Accepted},
		{"deepseek", 401, `{"error": {"message": "Authentication Fails", "type": "authentication_error"}}`, verdict.Rejected},
		{"deepseek", 402, `{"error": {"message": "Insufficient Balance"}}`, verdict.QuotaExhausted},
		{"perplexity", 401, `{"error": {"message": "Invalid API key provided.", "type": "invalid_api_key", "code": 401}}`, verdict.Rejected},
		{"openrouter", 401, `{"error": {"message": "User not found.", "code": 401}}`, verdict.Rejected},
		{"openrouter", 402, `{"error": {"message": "Insufficient credits. Add more using https://openrouter.ai/settings/credits", "code": 402}}`, verdict.QuotaExhausted},
		{"openrouter", 402, `{"error": {"message": "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 3395.", "code": 402}}`, verdict.Unrelated},
		{"openrouter", 403, `{"error": {"message": "Key limit exceeded (total limit).", "code": 403}}`, verdict.QuotaExhausted},
		{"openrouter", 403, `{"error": {"message": "x requires moderation", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "…"}}}`, verdict.Unrelated},
		{"azure_openai", 401, `{"error": {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}}`, verdict.Rejected},
		{"azure_openai", 403, `{"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}}`, verdict.Unrelated},
		{"azure_openai", 403, `{"error": {"code": "403", "message": "Public access is disabled. Please configure private endpoint."}}`, verdict.Unrelated},
		{"azure_openai", 429, `{"error": {"code": "insufficient_quota", "message": "…"}}`, verdict.QuotaExhausted},
	}
	c := load(t)
	for _, a := range answers {
		require.Equal(t, a.want, lookup(t, c, a.provider).Answers.Judge(a.status, []byte(a.body)), "%s %d %s", a.provider, a.status, a.body)
	}
	// Each rule is needed: without it, at least one answer is judged otherwise.
	for _, p := range c.All() {
		for i := range p.Answers {
			fewer := slices.Delete(slices.Clone(p.Answers), i, i+1)
			require.True(t, slices.ContainsFunc(answers, func(a answer) bool {
				return a.provider == p.Slug && fewer.Judge(a.status, []byte(a.body)) != a.want
			}), "%s: %+v", p.Slug, p.Answers[i])
		}
	}
}
