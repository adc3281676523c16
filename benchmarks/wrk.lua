-- Sends the requests of a file in turn, and gives the figures as one line of JSON.
-- The file: for each request its length as ten digits, then its bytes.

local requests, count, turn = {}, 0, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local bytes = file:read("*a")
  file:close()
  local at = 1
  while at <= #bytes do
    local length = tonumber(bytes:sub(at, at + 9))
    count = count + 1
    requests[count] = bytes:sub(at + 10, at + 9 + length)
    at = at + 10 + length
  end
end

function request()
  turn = turn % count + 1
  return requests[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p95_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,'
      .. '"refused":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
