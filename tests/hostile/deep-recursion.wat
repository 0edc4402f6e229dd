;; Two functions that call each other through a table, a hundred million deep.
(module
  ;; @answers
  ;; @heap
  (type $step (func (param i32) (result i32)))
  (table 2 2 funcref)
  (elem (i32.const 0) $even $odd)
  (func $even (type $step)
    (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
    (i32.add (call_indirect (type $step) (i32.sub (local.get 0) (i32.const 1)) (i32.const 1)) (i32.const 1)))
  (func $odd (type $step)
    (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
    (i32.add (call_indirect (type $step) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)) (i32.const 2)))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (drop (call $even (i32.const 100000000)))
    (call $ack)))
