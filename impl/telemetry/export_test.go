package telemetry

import "context"

// Flush sends what is there now.
func (p *Provider) Flush(ctx context.Context) error { return p.sdk.ForceFlush(ctx) }
