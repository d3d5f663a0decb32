package aikeys_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
)

func TestAnswersAreOrderedAsTheDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../spec/aikeys.yaml")
	require.NoError(t, err)
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties yaml.Node `yaml:"properties"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	require.NoError(t, yaml.Unmarshal(text, &document))
	for name, answer := range map[string]any{"Key": gen.Key{}, "Receipt": gen.Receipt{}, "DisableReceipt": gen.DisableReceipt{}, "Event": gen.Event{}} {
		var documented, sent []string
		properties := document.Components.Schemas[name].Properties.Content
		for i := 0; i < len(properties); i += 2 { // name, schema, name, schema
			documented = append(documented, properties[i].Value)
		}
		for field := range reflect.TypeOf(answer).Fields() {
			tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			sent = append(sent, tag)
		}
		require.NotEmpty(t, documented)
		require.Equal(t, documented, sent, "%s: gen/aikeys/overlay.yaml gives each member its place", name)
	}
}
