-- AI Keys with HAProxy: the action of haproxy.cfg. It asks aikeys-gateway for the provider key of a request, and replaces the caller's
-- credential with it. The gateway's refusals go to the client unchanged.

local GATEWAY = "unix@/run/aikeys-gateway/forward-auth.sock"
local CREDENTIALS = {"authorization", "x-api-key", "x-goog-api-key", "api-key"}

-- Headers that the question leaves out: those of the connection and the body, and those in which a client could forge facts.
local NOT_ASKED = {
  "host", "connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer",
  "forwarded", "x-forwarded-for", "x-forwarded-method", "x-forwarded-uri", "x-original-method", "x-original-uri",
}

-- first returns the first value of a header of the gateway's answer, or "".
local function first(values)
  return values and values[0] or ""
end

local function refuse(txn, status, headers, body)
  local reply = txn:reply({status = status})
  for name, values in pairs(headers) do
    for _, value in pairs(values) do
      reply:add_header(name, value)
    end
  end
  reply:set_body(body)
  txn:done(reply)
end

core.register_action("aikeys", {"http-req"}, function(txn, provider)
  local asked = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    asked[name] = {}
    for _, value in pairs(values) do
      table.insert(asked[name], value)
    end
  end
  for _, name in ipairs(NOT_ASKED) do
    asked[name] = nil
  end
  txn:set_var("txn.aikeys_path", txn.f:path())
  asked["x-forwarded-method"] = {txn.f:method()}
  asked["x-forwarded-uri"] = {txn.f:pathq()}
  asked["x-forwarded-for"] = {txn.f:src()}

  local answer = core.httpclient():get({
    url = "http://127.0.0.1/auth/" .. provider, dst = GATEWAY, headers = asked, timeout = 5000,
  })
  if not answer or answer.status == 0 then
    return refuse(txn, 503, {["retry-after"] = {"1"}}, "")
  end
  if answer.status ~= 200 then
    local headers = {}
    for _, name in ipairs({"content-type", "retry-after", "www-authenticate"}) do
      headers[name] = answer.headers[name]
    end
    return refuse(txn, answer.status, headers, answer.body)
  end
  for _, name in ipairs(CREDENTIALS) do
    txn.http:req_del_header(name)
    local value = first(answer.headers[name])
    if value ~= "" then
      txn.http:req_set_header(name, value)
    end
  end
  txn:set_var("txn.aikeys_key_id", first(answer.headers["agentrouter-key-id"])) -- without which haproxy.cfg lets nothing pass
end, 1)
