// Package awsroles assumes roles in customers' AWS accounts, with the identity that this process has in AWS, and makes short-term
// Bedrock API keys with them.
//
// The package finds the identity where AWS's own tools do: in the environment, files, web identity, or the machine's
// metadata. The customer's external id keeps customers from naming each other's roles. A role that can be assumed
// without an external id is refused. Otherwise any customer could name the operator's own roles, and the roles of
// others who trust the service without a condition.
//
// The package may import impl/exchange and impl/providers, and nothing else of ours.
package awsroles

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/providers"
)

// life is how long a session with a role lasts: the longest time that AWS allows if the process's own identity is a
// role.
const life = time.Hour

// scope is the policy of each session: its credentials can only call models, even if the role may do more.
const scope = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*","Action":[` +
	`"bedrock:InvokeModel","bedrock:InvokeModelWithResponseStream","bedrock:CallWithBearerToken","bedrock:ApplyGuardrail","bedrock:CountTokens",` +
	`"bedrock:Get*","bedrock:List*","s3:GetObject","s3:PutObject","aws-marketplace:ViewSubscriptions"]}]}`

// Roles assumes roles. It is safe for concurrent use.
type Roles struct {
	client *sts.Client
}

var _ exchange.Roles = (*Roles)(nil)

// New returns a Roles. It fails if AWS's settings for this process can't be read. If the process has no identity, the
// first use fails.
func New(ctx context.Context) (*Roles, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("settings for AWS: %w", err)
	}
	return &Roles{sts.NewFromConfig(cfg, func(o *sts.Options) { o.RetryMaxAttempts = 1 })}, nil
}

// Assume implements exchange.Roles.
func (r *Roles) Assume(ctx context.Context, role providers.Role) (token string, valid time.Duration, err error) {
	if role.ExternalID == "" || role.Session == "" {
		return "", 0, exchange.ErrRefused
	}
	if _, err := r.assume(ctx, role, nil); err == nil {
		return "", 0, exchange.ErrOpenRole
	} else if !errors.Is(err, exchange.ErrRefused) {
		return "", 0, err
	}
	session, err := r.assume(ctx, role, &role.ExternalID)
	if err != nil {
		return "", 0, err
	}
	now := time.Now()
	token, err = providers.SignBedrockKey(session, role.Region, now)
	return token, min(life, session.Expires.Sub(now)), err
}

// assume returns the credentials of a session with a role. AWS's errors quote the role and this process's identity, and are not passed on.
func (r *Roles) assume(ctx context.Context, role providers.Role, externalID *string) (aws.Credentials, error) {
	answer, err := r.client.AssumeRole(ctx, &sts.AssumeRoleInput{
		RoleArn: &role.ARN, RoleSessionName: &role.Session, ExternalId: externalID,
		DurationSeconds: aws.Int32(int32(life / time.Second)), Policy: aws.String(scope),
	}, func(o *sts.Options) { o.Region = role.Region })
	if err != nil {
		return aws.Credentials{}, classify(err)
	}
	got := answer.Credentials
	if got == nil || got.AccessKeyId == nil || got.SecretAccessKey == nil || got.SessionToken == nil || got.Expiration == nil {
		return aws.Credentials{}, exchange.ErrUnavailable
	}
	return aws.Credentials{
		AccessKeyID: *got.AccessKeyId, SecretAccessKey: *got.SecretAccessKey, SessionToken: *got.SessionToken, CanExpire: true, Expires: *got.Expiration,
	}, nil
}

// classify returns ErrRefused for an error about the role, and ErrUnavailable for any other, such as one about this process's identity.
func classify(err error) error {
	var answer *smithyhttp.ResponseError
	var api smithy.APIError
	if !errors.As(err, &answer) || !errors.As(err, &api) || answer.HTTPStatusCode() >= http.StatusInternalServerError {
		return exchange.ErrUnavailable
	}
	switch api.ErrorCode() {
	case "AccessDenied", "ValidationError", "RegionDisabledException", "MalformedPolicyDocument", "PackedPolicyTooLarge":
		return fmt.Errorf("%w: %s", exchange.ErrRefused, api.ErrorCode())
	}
	return exchange.ErrUnavailable
}
