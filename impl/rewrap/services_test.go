package rewrap

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/awskms/awskmstest"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/kmsurl"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

// From a keyset file to OpenBao, to AWS KMS, and all the way back. The job of each leg is stopped at another step, and another one does
// the rest; all keys open in between, while others read them.
func TestMoveThroughServicesStoppedAtEveryStep(t *testing.T) {
	awskmstest.SetCredentials()
	bao, aws := vaulttest.Start(t), awskmstest.Start(t, "local-kms")
	vaultURL, _ := bao.Sealer(t)
	open := func(url string) sealer.Sealer {
		s, err := kmsurl.Open(t.Context(), url, kms.Options{Timeout: 30 * time.Second}, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	inVault, inAWS := open(vaultURL), open(aws.Sealer(aws.NewKey(t, &awskms.CreateKeyInput{})))
	t.Run("move", func(t *testing.T) {
		each(t, 5, func(t *testing.T, env *env) {
			inFile := env.sealer
			legs := []sealer.Sealer{inVault, inAWS, inVault, inFile}
			for last := 1; last <= 2*len(legs); last++ {
				before := env.sealer
				env.sealer = legs[(last-1)%len(legs)]
				both, count := sealer.Migrating(env.sealer, before), 0
				job := New(Config{Store: env.Store, Sealer: both})
				job.batch, job.at = 3, func(string) {
					if count++; count == last {
						runtime.Goexit() // the job gets no further, as after a kill
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				var readers, running sync.WaitGroup
				readers.Go(func() {
					for ctx.Err() == nil {
						row, err := env.Canary(ctx)
						if err != nil {
							continue // it ends
						}
						_, err = both.Open(ctx, sealer.CanaryBinding(), row.Envelope)
						assert.True(t, err == nil || ctx.Err() != nil, "%v", err)
					}
				})
				running.Go(func() { _, _ = job.Run(t.Context()) })
				running.Wait()
				env.requireOpens(both)
				env.run(both)
				cancel()
				readers.Wait()
				require.Zero(t, env.requireOpens(env.sealer))
			}
		})
	})
}
