;; Tries cache keys that were not granted, by every odd name; a name that gets through is its reason to reject.
(module
  (import "sandpost:plugin/cache@0.1.0" "get" (func $it (param i32 i32 i32)))
  ;; @answers
  ;; @heap
  ;; @names
  (func $try (param $at i32) (param $length i32)
    (i32.store8 (i32.const 4096) (i32.const 0))
    (call $it (local.get $at) (local.get $length) (i32.const 4096)))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $next i32)
    (local.set $next (i32.const 8192))
    (loop $more
      (global.set $heap (i32.const 131072))
      (call $try (i32.load (local.get $next)) (i32.load (i32.add (local.get $next) (i32.const 4))))
      ;; Refused is an error that is `denied` or `invalid`.
      (if (i32.eqz (i32.and
            (i32.load8_u (i32.const 4096))
            (i32.le_u (i32.load8_u (i32.const 4100)) (i32.const 1))))
        (then (return (call $reject (i32.load (local.get $next)) (i32.load (i32.add (local.get $next) (i32.const 4)))))))
      (local.set $next (i32.add (local.get $next) (i32.const 8)))
      (br_if $more (i32.load (local.get $next))))
    (call $ack)))
