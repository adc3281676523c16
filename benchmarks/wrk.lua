-- Sends the requests of a file in turn, each with ids of its own, and gives the figures as one line of JSON.
-- File and ids as slots.py says.

local SESSIONS, EVENTS_PER_SESSION, REPEAT_DISTANCE = 1088, 5, 17
local templates, count, turn, size = {}, 0, -1, 1
local floor, format, concat = math.floor, string.format, table.concat

local function number_of(kind, index)
  if kind == "R" then
    local original = turn
    if turn % 10 >= 7 and turn >= REPEAT_DISTANCE then original = turn - REPEAT_DISTANCE end
    return original * size + index
  end
  local event = turn * size + index
  if kind == "M" then return event end
  local session = floor(event / (SESSIONS * EVENTS_PER_SESSION)) * SESSIONS + event % SESSIONS
  if kind == "V" and session % 10 >= 7 then return session - 7 end
  return session
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local bytes = file:read("*a")
  file:close()
  size = tonumber(args[2])
  local at = 1
  local function number(length)
    at = at + length
    return tonumber(bytes:sub(at - length, at - 1))
  end
  while at <= #bytes do
    -- Pieces at odd places, ids at even ones.
    local frame, slots = {}, {}
    local pieces = number(10)
    for piece = 1, pieces do
      local length = number(10)
      frame[2 * piece - 1] = bytes:sub(at, at + length - 1)
      at = at + length
      if piece < pieces then
        slots[piece] = { place = 2 * piece, kind = bytes:sub(at, at), index = tonumber(bytes:sub(at + 1, at + 4)) }
        at = at + 5
      end
    end
    count = count + 1
    templates[count] = { frame = frame, slots = slots }
  end
end

function request()
  turn = turn + 1
  local template = templates[turn % count + 1]
  local frame = template.frame
  for _, slot in ipairs(template.slots) do
    frame[slot.place] = format("%010d", number_of(slot.kind, slot.index))
  end
  return concat(frame)
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
