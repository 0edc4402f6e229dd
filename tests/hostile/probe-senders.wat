;; Tries senders that were not granted, by every odd name; a name that gets through is its reason to reject.
(module
  (import "sandpost:plugin/email@0.1.0" "send" (func $it (param i32 i32)))
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "ada@example.com")
  ;; @names
  (func $try (param $at i32) (param $length i32)
    (i32.store8 (i32.const 4096) (i32.const 0))
    ;; From this address to ada@example.com, with a subject and a text.
    (i32.store8 (i32.const 12288) (i32.const 1))
    (i32.store (i32.const 12304) (local.get $at)) (i32.store (i32.const 12308) (local.get $length))
    (i32.store (i32.const 12312) (i32.const 12800)) (i32.store (i32.const 12316) (i32.const 1))
    (i32.store (i32.const 12812) (i32.const 2048)) (i32.store (i32.const 12816) (i32.const 15))
    (i32.store (i32.const 12376) (i32.const 2048)) (i32.store (i32.const 12380) (i32.const 3))
    (i32.store8 (i32.const 12396) (i32.const 1))
    (i32.store (i32.const 12400) (i32.const 2048)) (i32.store (i32.const 12404) (i32.const 3))
    (call $it (i32.const 12288) (i32.const 4096)))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $next i32)
    (local.set $next (i32.const 8192))
    (loop $more
      (global.set $heap (i32.const 131072))
      (call $try (i32.load (local.get $next)) (i32.load (i32.add (local.get $next) (i32.const 4))))
      ;; Refused is `rejected`, or the host's own error that is `denied` or `invalid`.
      (if (i32.eqz (i32.and
            (i32.load8_u (i32.const 4096))
            (i32.or
              (i32.eqz (i32.load8_u (i32.const 4104)))
              (i32.and
                (i32.eq (i32.load8_u (i32.const 4104)) (i32.const 3))
                (i32.le_u (i32.load8_u (i32.const 4112)) (i32.const 1))))))
        (then (return (call $reject (i32.load (local.get $next)) (i32.load (i32.add (local.get $next) (i32.const 4)))))))
      (local.set $next (i32.add (local.get $next) (i32.const 8)))
      (br_if $more (i32.load (local.get $next))))
    (call $ack)))
