package awskms

import (
	"testing"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

func TestARepetitionIsInTime(t *testing.T) {
	for range 100 {
		wait, err := newRetryer().RetryDelay(1, &smithy.GenericAPIError{Code: "ThrottlingException"})
		require.NoError(t, err)
		require.LessOrEqual(t, wait, retryWait)
	}
}
