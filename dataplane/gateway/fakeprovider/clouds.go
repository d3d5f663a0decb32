package fakeprovider

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
)

// vertex is Google's API on Vertex AI, which takes a token.
func vertex() dialect {
	api := gemini()
	api.credential = bearer
	return api
}

// vertexAnthropic is the Messages API on Vertex AI: the path names the model, and whether to stream.
func vertexAnthropic() dialect {
	api := anthropic()
	api.credential, api.problem = bearer, geminiProblem
	api.parse = func(r *http.Request) (completionRequest, bool) {
		model, call, _ := strings.Cut(r.PathValue("call"), ":")
		stream := call == "streamRawPredict"
		return completionRequest{Model: model, Stream: stream}, stream || call == "rawPredict"
	}
	return api
}

// bedrock is a call of Bedrock's, whose path names the model.
func bedrock(api dialect, stream bool) dialect {
	api.credential, api.write, api.media = bearer, writeAWSEvent, "application/vnd.amazon.eventstream"
	api.problem = func(status int) any { return object{"message": message(status)} }
	api.parse = func(r *http.Request) (completionRequest, bool) {
		return completionRequest{Model: r.PathValue("model"), Stream: stream}, true
	}
	return api
}

// invoke is InvokeModel with a model of Anthropic's. Streamed, each event of the Messages API is the bytes of a chunk.
func invoke(stream bool) dialect {
	api := bedrock(anthropic(), stream)
	messages := anthropic()
	chunks := func(events []event) []event {
		for i, e := range events {
			data, _ := json.Marshal(e.data) // an object of ours
			events[i] = event{"chunk", object{"bytes": data}}
		}
		return events
	}
	api.begin = func(c completionRequest) []event { return chunks(messages.begin(c)) }
	api.piece = func(c completionRequest, text string) event { return chunks([]event{messages.piece(c, text)})[0] }
	api.end = func(c completionRequest, pieces int) []event { return chunks(messages.end(c, pieces)) }
	return api
}

// converse is Converse.
func converse(stream bool) dialect {
	usage := func(tokens int) object {
		return object{"inputTokens": 1, "outputTokens": tokens, "totalTokens": 1 + tokens}
	}
	metrics := object{"latencyMs": 1}
	return bedrock(dialect{
		whole: func(_ completionRequest, text string) any {
			message := object{"role": "assistant", "content": []object{{"text": text}}}
			return object{
				"output": object{"message": message}, "stopReason": "end_turn", "usage": usage(strings.Count(text, " ") + 1), "metrics": metrics,
			}
		},
		begin: func(completionRequest) []event { return []event{{"messageStart", object{"role": "assistant"}}} },
		piece: func(_ completionRequest, text string) event {
			return event{"contentBlockDelta", object{"contentBlockIndex": 0, "delta": object{"text": text}}}
		},
		end: func(_ completionRequest, pieces int) []event {
			return []event{
				{"contentBlockStop", object{"contentBlockIndex": 0}},
				{"messageStop", object{"stopReason": "end_turn"}},
				{"metadata", object{"usage": usage(pieces), "metrics": metrics}},
			}
		},
	}, stream)
}

// writeAWSEvent writes an event in AWS's encoding (smithy.io/2.0/aws/amazon-eventstream.html): prelude, headers, payload and checksums.
func writeAWSEvent(w io.Writer, e event) error {
	payload, err := json.Marshal(e.data)
	if err != nil {
		return err
	}
	var headers []byte
	for _, header := range [][2]string{{":message-type", "event"}, {":event-type", e.name}, {":content-type", "application/json"}} {
		headers = append(append(headers, byte(len(header[0]))), header[0]...)                          //nolint:gosec // some bytes
		headers = append(headers, 7)                                                                   // the type of strings
		headers = append(binary.BigEndian.AppendUint16(headers, uint16(len(header[1]))), header[1]...) //nolint:gosec // some bytes
	}
	const fixed = 16
	out := binary.BigEndian.AppendUint32(nil, uint32(fixed+len(headers)+len(payload))) //nolint:gosec // a short text
	out = binary.BigEndian.AppendUint32(out, uint32(len(headers)))                     //nolint:gosec // some bytes
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out))
	out = append(append(out, headers...), payload...)
	_, err = w.Write(binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out)))
	return err
}
